"""Evaluate expressions on patches, at one position of the output each, by matrix products.

A patch is as large as the kernel, so each factor either covers an axis whole or visits its pixels one
by one: a product of matrices, with the channels last. Quicker than convolutions of tiny inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from decompose.algebra.expressions import Chain, Conv, Expression, Sum


class FactorOutputs:
    """Outputs of factors, each kept for other expressions that run the same factor on the same input.

    To be dropped with the expressions, whose first factors they share.

    Example:
        >>> outputs, first, seen = FactorOutputs(), Conv(torch.ones(2, 3)), torch.ones(5, 3)
        >>> outputs(first, seen) is outputs(first, seen)
        True
    """

    def __init__(self) -> None:
        # The factor and its input are kept, so that no others take their identities.
        self._kept: dict[tuple[int, int], tuple[Conv, Tensor, Tensor]] = {}

    def __call__(self, conv: Conv, x: Tensor) -> Tensor:
        """The output of a factor."""
        key = id(conv), id(x)
        if key not in self._kept:
            self._kept[key] = conv, x, _multiply(conv, x)
        return self._kept[key][2]


def run_on_patches(
    expression: Expression, seen: Tensor, outputs: FactorOutputs | None = None
) -> Tensor:
    """Evaluate an expression on patches, one output position each.

    Args:
        expression: I input channels, O output channels; a factor has one tap or all along each axis.
        seen: ``(n, *kernel_size, I)``.
        outputs: of factors that other expressions share.

    Returns:
        ``(n, O)``.

    Example:
        >>> run_on_patches(Conv(torch.ones(2, 3, 3, 3)), torch.ones(5, 3, 3, 3))[0]
        tensor([27., 27.])
    """
    return _run(expression, seen, outputs or _multiply).flatten(1)


def truncations_on_patches(
    expression: Expression, seen: Tensor, outlines: Sequence[Expression]
) -> Iterator[Tensor]:
    """Evaluate several truncations of an expression for little more than the price of one.

    Args:
        expression: a sum of terms, or a chain of factors without groups.
        seen: as for ``run_on_patches``.
        outlines: truncations of the expression to its first terms, or to the first channels between
            its factors, by rising size; only their shapes matter.

    Returns:
        The output of each, ``(n, O)``.

    Example:
        >>> term = Conv(torch.ones(1, 2))
        >>> outlines = [Sum(term), Sum(term, term, term)]
        >>> found = truncations_on_patches(Sum(term, term, term), torch.ones(1, 2), outlines)
        >>> [y.item() for y in found]
        [2.0, 6.0]
    """
    total, done = torch.zeros(()).to(seen), 0
    if isinstance(expression, Sum):
        for outline in outlines:
            count = len(_parts(outline))
            for term in expression.parts[done:count]:
                total = total + run_on_patches(term, seen)
            done = count
            yield total
        return
    first, second, *others = map(_factor, _parts(expression))
    between = _multiply(first, seen)
    for outline in outlines:
        width, *widths = (_factor(part).out_channels for part in _parts(outline)[:-1])
        if width > done:
            total = total + _multiply(_reading(second, done, width), between[..., done:width])
            done = width
        y = total
        for factor, kept in zip(others, widths, strict=True):
            y = _multiply(_reading(factor, 0, kept), y[..., :kept])
        yield y.flatten(1)


def _parts(expression: Expression) -> tuple[Expression, ...]:
    assert not isinstance(expression, Conv)
    return expression.parts


def _factor(part: Expression) -> Conv:
    assert isinstance(part, Conv)
    return part


def _reading(conv: Conv, start: int, stop: int) -> Conv:
    """The part of a factor without groups that reads some channels; the first has the bias."""
    return replace(conv, weight=conv.weight[:, start:stop], bias=None if start else conv.bias)


def _run(expression: Expression, x: Tensor, multiply: Callable[[Conv, Tensor], Tensor]) -> Tensor:
    """From ``(n, *size, I)`` to ``(n, *size, O)``, one pixel along each axis that was covered."""
    if isinstance(expression, Conv):
        return multiply(expression, x)
    if isinstance(expression, Chain):
        return reduce(lambda y, part: _run(part, y, multiply), expression.parts, x)
    return reduce(torch.add, (_run(part, x, multiply) for part in expression.parts))


def _multiply(conv: Conv, x: Tensor) -> Tensor:
    if conv.is_pointwise and conv.groups == 1:
        return F.linear(x, conv.weight.flatten(1), conv.bias)
    axes = range(1, 1 + conv.geometry.num_axes)
    covered = [axis for axis in axes if conv.kernel_size[axis - 1] > 1]
    visited = [axis for axis in axes if axis not in covered]
    first = 1 + len(visited)
    rows = x.permute(0, *visited, *covered, -1)
    kernel = conv.weight.movedim(1, -1).flatten(1)
    if conv.groups == 1:
        y = F.linear(rows.flatten(first), kernel)
    elif conv.is_depthwise and conv.out_channels == conv.groups:
        taps = kernel.mT.contiguous()
        y = (rows.flatten(first, -2) if covered else rows.unsqueeze(-2)).mul(taps).sum(-2)
    else:
        blocks = rows.unflatten(-1, (conv.groups, -1)).movedim(-2, first).flatten(first + 1)
        kernels = kernel.unflatten(0, (conv.groups, -1))
        y = torch.einsum("...gi,goi->...go", blocks, kernels).flatten(-2)
    y = y if conv.bias is None else y + conv.bias
    for axis in covered:
        y = y.unsqueeze(axis)
    return y
