"""The last factors of an expression, which write its output, and in which it is linear.

An expression is ``sum_j L_j(P_j(x))``: of each branch j, the last convolution L_j behind the
parts P_j before it. With the P_j held, the L_j together are one linear map of their inputs' patches,
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
from decompose.algebra.unfolding import grouped_patches


@dataclass(frozen=True, eq=False)
class LastFactor:
    """The last convolution of a branch, and the parts before it."""

    before: tuple[Expression, ...]
    conv: Conv


def last_factors(expression: Expression) -> list[LastFactor]:
    """The last factor of every branch of an expression, in the order in which they are written.

    Example:
        >>> branch = Chain(Conv(torch.randn(4, 8, 3, 1)), Conv(torch.randn(16, 4, 1, 3)))
        >>> [factor.conv.kernel_size for factor in last_factors(Sum(branch, branch))]
        [(1, 3), (1, 3)]
    """
    return list(_walk(expression, ()))


def features(expression: Expression, x: Tensor, step: int = 1) -> Tensor:
    """Inputs of the last factors, unfolded for their weights and laid side by side.

    Args:
        expression: whose last factors have as many groups each, and are not transposed.
        x: ``(batch, I, *input_size)``; of a fully connected layer ``(..., I)``.
        step: distance of the positions, in output pixels.

    Returns:
        ``(groups, num_positions, F)``, F being the weights of the last factors for one output channel.

    Raises:
        ValueError: the last factors are transposed.

    Example:
        >>> branch = Chain(Conv(torch.randn(4, 8, 3, 1)), Conv(torch.randn(16, 4, 1, 3)))
        >>> features(branch, torch.randn(2, 8, 6, 6)).shape  # 2 x 4 x 4 positions, 4 x 1 x 3 weights
        torch.Size([1, 32, 12])
    """
    found = [
        grouped_patches(factor.conv, reduce(lambda y, part: run(part, y), factor.before, x), step)
        for factor in last_factors(expression)
    ]
    # Their columns lie together.
    return found[0] if len(found) == 1 else torch.cat([z.mT for z in found], dim=1).mT


def last_weights(expression: Expression) -> Tensor:
    """Weights of the last factors, in the order of ``features``, ``(groups, O / groups, F)``.

    Example:
        >>> branch = Chain(Conv(torch.randn(4, 8, 3, 1)), Conv(torch.randn(16, 4, 1, 3)))
        >>> last_weights(Sum(branch, branch)).shape
        torch.Size([1, 16, 24])
    """
    convs = [factor.conv for factor in last_factors(expression)]
    return torch.cat(
        [conv.weight.reshape(conv.groups, conv.out_channels // conv.groups, -1) for conv in convs],
        dim=2,
    )


def with_last_weights(expression: Expression, weights: Tensor, bias: Tensor | None) -> Expression:
    """Replace the weights of the last factors, and the bias.

    Args:
        expression: any.
        weights: as ``last_weights`` gives them.
        bias: ``(O,)`` of the whole expression, or ``None``.

    Example:
        >>> branch = Chain(Conv(torch.ones(1, 2)), Conv(torch.ones(1, 1)))
        >>> refitted = with_last_weights(branch, torch.full((1, 1, 1), 3.0), torch.tensor([1.0]))
        >>> run(refitted, torch.ones(1, 2))
        tensor([[7.]])
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
    """Scale every output channel of an expression, and replace its bias.

    Args:
        expression: any.
        scale: ``(O,)``; in float64 it may leave the range of the weights' dtype, if its products do not.
        bias: ``(O,)`` of the whole expression, or ``None``.

    Returns:
        An expression of the same dtype.

    Example:
        >>> scaled = scale_outputs(Conv(torch.ones(2, 1)), torch.tensor([2.0, 3.0]), None)
        >>> run(scaled, torch.ones(1, 1))
        tensor([[2., 3.]])
    """
    scaled = (
        replace(
            conv,
            weight=(conv.weight * scale.view(-1, *[1] * (conv.weight.ndim - 1))).to(conv.weight),
            bias=None if index or bias is None else bias.to(conv.weight),
        )
        for index, conv in enumerate(factor.conv for factor in last_factors(expression))
    )
    return _with_last(expression, scaled)


def bias_of(expression: Expression) -> Tensor | None:
    """Sum of the biases of the last factors, ``(O,)``, or ``None`` where they have none.

    Example:
        >>> branch = Conv(torch.ones(2, 1), torch.tensor([1.0, 2.0]))
        >>> bias_of(Sum(branch, branch))
        tensor([2., 4.])
    """
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
