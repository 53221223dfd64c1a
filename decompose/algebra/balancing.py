"""Balance the factors of an expression: equal norms on both sides of every middle channel.

The channel m between two parts of a chain can be scaled by any s in one and by 1 / s in the other:

    sum_m  b[o, m] a[m, i]  =  sum_m  (b[o, m] / s_m) (s_m a[m, i])

A step of gradient descent is not free of it: the gradient of one factor is as large as the other
factor, so where the two differ in size one hardly moves and the other overshoots. With
s_m^2 = |b[:, m]| / |a[m]| both have the same norm, which is also the smallest sum of their squares
(Du et al. 2018, arXiv 1806.00900, show that gradient flow keeps the difference of those squares, so
that it stays as it is set here). Chains of more than two parts are swept pair by pair until nothing
moves: each pair lowers the sum of squares, which is convex in the logarithms of the scales.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from decompose.algebra.dtypes import converted
from decompose.algebra.expressions import Chain, Conv, Expression, Sum, leaves

_MOST_SWEEPS = 200
_SETTLED = 1e-6
"""Logarithm of a scale that is rounding in float32."""


def balanced(expression: Expression) -> Expression:
    """Give the factors of an expression equal norms in every channel between them.

    Args:
        expression: of any nesting, its factors of one dtype; computed in float64.

    Returns:
        One of the same structure and dtype that composes to the same kernel and bias, but for
        rounding. A channel that one side writes and the other ignores is left as it is.

    Example:
        >>> expression = Chain(Conv(torch.tensor([[8.0]])), Conv(torch.tensor([[2.0]])))
        >>> [leaf.weight.item() for leaf in leaves(balanced(expression))]
        [4.0, 4.0]
    """
    wide, dtype = converted(expression, torch.float64), next(leaves(expression)).weight.dtype
    for _ in range(_MOST_SWEEPS):
        wide, moved = _sweep(wide)
        if moved < _SETTLED:
            break
    return converted(wide, dtype)


def output_energies(expression: Expression) -> Tensor:
    """Sum of squares of the weights that write each output channel, ``(O,)``."""
    if isinstance(expression, Conv):
        return expression.weight.square().flatten(1).sum(1)
    if isinstance(expression, Chain):
        return output_energies(expression.parts[-1])
    return torch.stack([output_energies(part) for part in expression.parts]).sum(0)


def input_energies(expression: Expression) -> Tensor:
    """Sum of squares of the weights that read each input channel, ``(I,)``."""
    if isinstance(expression, Conv):
        blocks = expression.taps_last.square().sum(2).unflatten(0, (expression.groups, -1))
        return blocks.sum(1).flatten()
    if isinstance(expression, Chain):
        return input_energies(expression.parts[0])
    return torch.stack([input_energies(part) for part in expression.parts]).sum(0)


def _sweep(expression: Expression) -> tuple[Expression, float]:
    """Balance every pair of neighbours once; also the largest logarithm of a scale."""
    if isinstance(expression, Conv):
        return expression, 0.0
    swept = [_sweep(part) for part in expression.parts]
    parts, moved = [part for part, _ in swept], max(moved for _, moved in swept)
    if isinstance(expression, Sum):
        return Sum(*parts), moved
    for index in range(1, len(parts)):
        written, read = output_energies(parts[index - 1]), input_energies(parts[index])
        live = (written > 0) & (read > 0)
        ratio = torch.where(live, read, 1.0) / torch.where(live, written, 1.0)
        scale = ratio.pow(0.25)
        moved = max(moved, float(scale.log().abs().max()))
        parts[index - 1] = scaled_outputs(parts[index - 1], scale)
        parts[index] = scaled_inputs(parts[index], 1 / scale)
    return Chain(*parts), moved


def scaled_outputs(expression: Expression, scale: Tensor) -> Expression:
    """The expression with each output channel, its bias included, times ``scale``, ``(O,)``."""
    if isinstance(expression, Conv):
        weight = expression.weight * scale.view(-1, *[1] * (expression.weight.ndim - 1))
        bias = None if expression.bias is None else expression.bias * scale
        return replace(expression, weight=weight, bias=bias)
    if isinstance(expression, Chain):
        *first, last = expression.parts
        return Chain(*first, scaled_outputs(last, scale))
    return _each(lambda part: scaled_outputs(part, scale), expression)


def scaled_inputs(expression: Expression, scale: Tensor) -> Expression:
    """The expression of an input whose channels are times ``scale``, ``(I,)``."""
    if isinstance(expression, Conv):
        blocks = expression.weight.unflatten(0, (expression.groups, -1))
        by_group = scale.view(expression.groups, 1, -1, *[1] * (expression.weight.ndim - 2))
        return replace(expression, weight=(blocks * by_group).flatten(0, 1))
    if isinstance(expression, Chain):
        first, *others = expression.parts
        return Chain(scaled_inputs(first, scale), *others)
    return _each(lambda part: scaled_inputs(part, scale), expression)


def _each(function: Callable[[Expression], Expression], expression: Sum) -> Sum:
    return Sum(*map(function, expression.parts))
