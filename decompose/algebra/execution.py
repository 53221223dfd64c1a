"""Evaluate an expression on an input; kernels in the layout that torch expects."""

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from decompose.algebra.composition import with_groups
from decompose.algebra.expressions import Chain, Conv, Expression

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def run(expression: Expression, x: Tensor) -> Tensor:
    """Evaluate an expression on an input.

    Args:
        expression: I input channels, O output channels, N spatial axes.
        x: ``(batch, I, *input_size)``, of the weights' dtype and device.

    Returns:
        ``(batch, O, *output_size)``.

    Example:
        >>> run(Conv(torch.ones(2, 3, 3, 3)), torch.ones(1, 3, 5, 5)).shape
        torch.Size([1, 2, 3, 3])
    """
    if isinstance(expression, Conv):
        return _convolve(expression, x)
    if isinstance(expression, Chain):
        return reduce(lambda y, part: run(part, y), expression.parts, x)
    return reduce(torch.add, (run(part, x) for part in expression.parts))


def swap_transposed_layout(weight: Tensor, groups: int) -> Tensor:
    """Turn a kernel from our layout into torch's for transposed convolutions, or back.

    Args:
        weight: ``(A, B / groups, *kernel_size)``, A and B the output and input channels or the
            other way round.
        groups: number of groups.

    Returns:
        ``(B, A / groups, *kernel_size)``; applied twice, it gives the kernel back.
    """
    blocks = weight.unflatten(0, (groups, -1))
    return blocks.transpose(1, 2).flatten(0, 1)


def mean_over_positions(x: Tensor) -> Tensor:
    """The mean of maps ``(batch, channels, *size)``, ``(batch, channels, 1, ...)``."""
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def padded(conv: Conv, x: Tensor) -> Tensor:
    """Pad an input ``(batch, I, *input_size)`` as an ordinary convolution does."""
    geometry = conv.geometry
    if not any(map(any, geometry.padding)):
        return x
    # F.pad counts axes from the last one.
    widths = [width for pair in reversed(geometry.padding) for width in pair]
    mode = "constant" if geometry.padding_mode == "zeros" else geometry.padding_mode
    return F.pad(x, widths, mode=mode)


def _convolve(conv: Conv, x: Tensor) -> Tensor:
    geometry, num_axes = conv.geometry, conv.geometry.num_axes
    if num_axes == 0:
        return F.linear(x, with_groups(conv, 1).weight, conv.bias)
    if geometry.pooled:
        x = mean_over_positions(x)
    if geometry.transposed:
        return _TRANSPOSED[num_axes](
            x,
            swap_transposed_layout(conv.weight, conv.groups),
            conv.bias,
            stride=geometry.stride,
            padding=tuple(before for before, _ in geometry.padding),
            output_padding=geometry.output_padding,
            groups=conv.groups,
            dilation=geometry.dilation,
        )
    if covered := _covered_axes(conv, x):
        return _multiply(conv, padded(conv, x), covered)
    padding = [0] * num_axes
    if geometry.padding_mode == "zeros" and all(
        before == after for before, after in geometry.padding
    ):
        # Padding inside the convolution saves a copy of the input.
        padding = [before for before, _ in geometry.padding]
    else:
        x = padded(conv, x)
    return _CONVOLUTIONS[num_axes](
        x,
        conv.weight,
        conv.bias,
        stride=geometry.stride,
        padding=padding,
        dilation=geometry.dilation,
        groups=conv.groups,
    )


def _covered_axes(conv: Conv, x: Tensor) -> list[int]:
    """The axes whose padded pixels the kernel covers whole, if it visits each of the others alone."""
    if conv.groups > 1:
        return []
    covered = []
    for axis, (pixels, taps) in enumerate(zip(x.shape[2:], conv.kernel_size, strict=True)):
        if (
            taps == pixels + sum(conv.geometry.padding[axis]) > 1
            and conv.geometry.dilation[axis] == 1
        ):
            covered.append(axis)
        elif taps > 1 or conv.geometry.stride[axis] > 1:
            return []
    return covered


def _multiply(conv: Conv, x: Tensor, covered: Sequence[int]) -> Tensor:
    """A convolution whose kernel has one tap along some axes, as a matrix product."""
    num_axes = conv.geometry.num_axes
    visited = [axis + 2 for axis in range(num_axes) if axis not in covered]
    rows = x.permute(0, *visited, 1, *(axis + 2 for axis in covered)).flatten(1 + len(visited))
    y = F.linear(rows, conv.weight.flatten(1), conv.bias).movedim(-1, 1)
    for axis in covered:
        y = y.unsqueeze(axis + 2)
    return y
