"""The factors that write an expression's output, in which it is linear.

An expression is ``sum_j L_j(P_j(x))``: of each branch, the last convolution L_j after what stands
before it, P_j. With the P_j held, the L_j together are one linear map of their inputs' patches,
so that the best of them is a linear regression.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from decompose.algebra.execution import run
from decompose.algebra.expressions import Chain, Conv, Expression, Sum
from decompose.algebra.unfolding import patches


@dataclass(frozen=True, eq=False)
class LastFactor:
    """The last convolution of a branch, and the parts before it."""

    before: tuple[Expression, ...]
    conv: Conv


def last_factors(expression: Expression) -> list[LastFactor]:
    """One for every branch of the expression, in the order in which they are written."""
    return list(_walk(expression, ()))


def features(expression: Expression, x: Tensor, step: int = 1) -> Tensor:
    """What the last factors see, side by side.

    Args:
        expression: whose last factors have as many groups each, and are not transposed.
        x: ``(batch, I, *input_size)``; of a fully connected layer ``(..., I)``.
        step: distance of the positions, in output pixels.

    Returns:
        ``(groups, num_positions, F)``.

    Raises:
        ValueError: the last factors are transposed.
    """
    seen = []
    for factor in last_factors(expression):
        z = patches(factor.conv, reduce(lambda y, part: run(part, y), factor.before, x), step)
        seen.append(z.reshape(len(z), factor.conv.groups, -1).transpose(0, 1))
    return torch.cat(seen, dim=2)


def last_weights(expression: Expression) -> Tensor:
    """The weights of the last factors that the features meet, ``(groups, O / groups, F)``."""
    convs = [factor.conv for factor in last_factors(expression)]
    return torch.cat(
        [conv.weight.reshape(conv.groups, conv.out_channels // conv.groups, -1) for conv in convs],
        dim=2,
    )


def with_last_weights(expression: Expression, weights: Tensor, bias: Tensor | None) -> Expression:
    """The expression with other last factors and another bias.

    Args:
        expression: any.
        weights: as ``last_weights`` gives them.
        bias: ``(O,)`` of the whole expression, or ``None``.
    """
    convs = [factor.conv for factor in last_factors(expression)]
    blocks = weights.split([conv.weight[0].numel() for conv in convs], dim=2)
    refitted = (
        replace(
            conv,
            weight=block.reshape(conv.weight.shape).contiguous(),
            bias=bias if index == 0 else None,
        )
        for index, (conv, block) in enumerate(zip(convs, blocks, strict=True))
    )
    return _with_last(expression, refitted)


def scale_outputs(expression: Expression, scale: Tensor, bias: Tensor | None) -> Expression:
    """The expression with every output channel scaled, and another bias.

    Args:
        expression: any.
        scale: ``(O,)``.
        bias: ``(O,)`` of the whole expression, or ``None``.
    """
    scaled = (
        replace(
            factor.conv,
            weight=factor.conv.weight * scale.view(-1, *[1] * (factor.conv.weight.ndim - 1)),
            bias=bias if index == 0 else None,
        )
        for index, factor in enumerate(last_factors(expression))
    )
    return _with_last(expression, scaled)


def bias_of(expression: Expression) -> Tensor | None:
    """The bias that the last factors add together, ``(O,)``, or ``None``."""
    biases = [factor.conv.bias for factor in last_factors(expression)]
    given = [bias for bias in biases if bias is not None]
    return reduce(torch.add, given) if given else None


def _walk(expression: Expression, before: tuple[Expression, ...]) -> Iterable[LastFactor]:
    if isinstance(expression, Conv):
        yield LastFactor(before, expression)
    elif isinstance(expression, Chain):
        *first, last = expression.parts
        yield from _walk(last, (*before, *first))
    else:
        for part in expression.parts:
            yield from _walk(part, before)


def _with_last(expression: Expression, convs: Iterator[Conv]) -> Expression:
    if isinstance(expression, Conv):
        return next(convs)
    if isinstance(expression, Chain):
        *first, last = expression.parts
        return Chain(*first, _with_last(last, convs))
    return Sum(*(_with_last(part, convs) for part in expression.parts))
