"""Multiply an expression back into one dense convolution.

The kernel of ``Chain(a, b)`` is the product over the channels m between the two:

    K[o, i, (t, u)] = sum_m  b[o, m, t] a[m, i, u]

where along each axis either a or b is one tap wide, so that the taps (t, u) are again those of
one kernel. Every method of the field builds its chains that way: a kernel that spanned an axis
twice could not be exact at the padded border.
"""

from dataclasses import replace
from functools import reduce
from math import gcd, prod

import torch
from torch import Tensor

from decompose.algebra.expressions import Chain, Conv, Expression, Geometry


def compose(expression: Expression) -> Conv:
    """Multiply an expression back into the one convolution that it equals.

    Args:
        expression: of any nesting.

    Returns:
        A ``Conv`` with as many groups as the expression allows.

    Raises:
        ValueError: the expression is no single convolution: two parts of a chain are spatial
            along the same axis, or the branches of a sum move differently.

    Example:
        >>> tall, wide = Conv(torch.randn(8, 3, 3, 1)), Conv(torch.randn(16, 8, 1, 3))
        >>> compose(Chain(tall, wide)).weight.shape
        torch.Size([16, 3, 3, 3])
    """
    if isinstance(expression, Conv):
        return expression
    parts = [compose(part) for part in expression.parts]
    return reduce(_compose_chain if isinstance(expression, Chain) else _compose_sum, parts)


def with_groups(conv: Conv, groups: int) -> Conv:
    """Write a convolution with fewer groups, its kernel filled up with zeros.

    Args:
        conv: any.
        groups: a divisor of its own number of groups.

    Example:
        >>> with_groups(Conv(torch.ones(4, 1), groups=2), 1).weight.tolist()
        [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    """
    blocks = conv.groups // groups
    weight = conv.weight.unflatten(0, (groups, blocks, -1))
    dense = torch.einsum(
        "gno...,nm->gnom...", weight, torch.eye(blocks, dtype=weight.dtype, device=weight.device)
    )
    # (groups, n, O', m, I', *taps): the blocks n = m hold the kernel.
    return replace(conv, weight=dense.flatten(3, 4).flatten(0, 2), groups=groups)


def _compose_chain(a: Conv, b: Conv) -> Conv:
    if a.out_channels != b.in_channels:
        raise ValueError(f"a chain passes {a.out_channels} channels on to {b.in_channels}")
    geometry = _chain_geometry(a, b)
    bias = b.bias
    if a.bias is not None:
        if any(b.is_spatial(axis) for axis in range(geometry.num_axes)):
            raise ValueError("a bias before a spatial kernel is no constant at the border")
        passed = (
            torch.einsum(
                "gom,gm->go",
                b.weight.flatten(1).unflatten(0, (b.groups, -1)),
                a.bias.unflatten(0, (b.groups, -1)),
            )
        ).flatten()
        bias = passed if bias is None else bias + passed
    groups = gcd(a.groups, b.groups)
    kernel = _chain_kernel(a, b, groups)
    kernel_size = [x * y for x, y in zip(a.kernel_size, b.kernel_size, strict=True)]
    return Conv(kernel.reshape(*kernel.shape[:2], *kernel_size), bias, geometry, groups)


def _chain_kernel(a: Conv, b: Conv, groups: int) -> Tensor:
    """The product's kernel, ``(O, I / groups, taps)``, within each of the common groups."""
    if a.groups != groups and b.groups != groups:
        a = with_groups(a, groups)
    # Taps last, as one axis each: since along every spatial axis one of the two is one tap wide,
    # their outer product has the taps in order once the axes are interleaved.
    u, t = a.kernel_size, b.kernel_size
    if a.groups == groups:
        n = b.groups // groups
        left = b.taps_last.unflatten(0, (groups, n, -1))
        right = a.taps_last.unflatten(0, (groups, n, -1))
        product = torch.einsum("gnomt,gnmiu->gnoitu", left, right).flatten(0, 2)
    else:
        n = a.groups // groups
        left = b.taps_last.unflatten(0, (groups, -1)).unflatten(2, (n, -1))
        right = a.taps_last.unflatten(0, (groups, n, -1))
        product = torch.einsum("gonmt,gnmiu->gonitu", left, right).flatten(2, 3).flatten(0, 1)
    interleaved = product.reshape(*product.shape[:2], *t, *u)
    num_axes = len(t)
    order = [2 + axis + side * num_axes for axis in range(num_axes) for side in (0, 1)]
    return interleaved.permute(0, 1, *order).reshape(*product.shape[:2], prod(t) * prod(u))


def _compose_sum(a: Conv, b: Conv) -> Conv:
    if a.geometry != b.geometry or a.kernel_size != b.kernel_size:
        raise ValueError("the branches of a sum move over their input in different ways")
    groups = gcd(a.groups, b.groups)
    biases = [conv.bias for conv in (a, b) if conv.bias is not None]
    weight = with_groups(a, groups).weight + with_groups(b, groups).weight
    return Conv(weight, sum(biases[1:], biases[0]) if biases else None, a.geometry, groups)


def _chain_geometry(a: Conv, b: Conv) -> Geometry:
    num_axes = a.geometry.num_axes
    a_axes = [axis for axis in range(num_axes) if a.is_spatial(axis)]
    b_axes = [axis for axis in range(num_axes) if b.is_spatial(axis)]
    if set(a_axes) & set(b_axes):
        raise ValueError("two parts of a chain are spatial along the same axis")
    if not b_axes:
        return a.geometry
    if not a_axes:
        return b.geometry
    g, h = a.geometry, b.geometry
    if (g.transposed, g.padding_mode) != (h.transposed, h.padding_mode):
        raise ValueError("the parts of a chain pad or scatter in different ways")
    owners = [g if axis in a_axes else h for axis in range(num_axes)]
    return replace(
        g,
        stride=tuple(owner.stride[axis] for axis, owner in enumerate(owners)),
        padding=tuple(owner.padding[axis] for axis, owner in enumerate(owners)),
        dilation=tuple(owner.dilation[axis] for axis, owner in enumerate(owners)),
        output_padding=tuple(owner.output_padding[axis] for axis, owner in enumerate(owners)),
    )
