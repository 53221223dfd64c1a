"""Rewrite expressions into equal ones that run at another speed.

A sum of T chains of the same shape is one chain, T times as wide in the middle:

    sum_t b_t(a_t(x))  =  [b_1 ... b_T] ([a_1; ...; a_T] (x))

With the T copies of each middle channel side by side (channel m of term t goes to m T + t) the
groups stay contiguous. So the one rule turns T depthwise branches of DW+PW into one depthwise
convolution with channel multiplier T before one pointwise on the concatenation, and those of
PW+DW into one wide pointwise before a convolution with O groups of T channels. MACs and
parameters stay the same; speed does not.
"""

from contextlib import suppress
from dataclasses import replace

import torch

from decompose.algebra.expressions import Chain, Conv, Expression, Sum


def merged(expression: Expression) -> Expression:
    """Rewrite every sum of like branches, at any depth, as one wide chain.

    Args:
        expression: any; sums of branches that differ in shape stay as they are.

    Example:
        >>> branch = Chain(Conv(torch.randn(8, 1, 3, 3), groups=8), Conv(torch.randn(16, 8, 1, 1)))
        >>> [part.out_channels for part in merged(Sum(branch, branch)).parts]
        [16, 16]
    """
    if isinstance(expression, Conv):
        return expression
    same = type(expression)(*map(merged, expression.parts))
    if isinstance(same, Sum):
        # Branches that cannot be merged stay a sum.
        with suppress(ValueError):
            return merge_branches(same)
    return same


def split_like(expression: Expression, outline: Expression) -> Expression:
    """Split a merged expression into its branches again.

    Args:
        expression: made by ``merged``.
        outline: the expression before; only its structure matters.

    Example:
        >>> branch = Chain(Conv(torch.randn(8, 1, 3, 3), groups=8), Conv(torch.randn(16, 8, 1, 1)))
        >>> branches = Sum(branch, branch)
        >>> len(split_like(merged(branches), branches).parts)
        2
    """
    if isinstance(outline, Conv) or isinstance(expression, Conv):
        return expression
    if isinstance(outline, Sum) and isinstance(expression, Chain):
        return split_branches(expression, len(outline.parts))
    return type(outline)(*map(split_like, expression.parts, outline.parts))


def merge_branches(expression: Sum) -> Chain:
    """Rewrite a sum of T two-part chains as one chain with T times the middle channels.

    Args:
        expression: branches ``Chain(a_t, b_t)`` of convolutions, alike in shape, geometry and
            groups.

    Returns:
        ``Chain(a, b)``, equal to the sum.

    Raises:
        ValueError: the branches are not chains of two convolutions, or differ in shape.

    Example:
        >>> branch = Chain(Conv(torch.randn(8, 1, 3, 3), groups=8), Conv(torch.randn(16, 8, 1, 1)))
        >>> [part.weight.shape[0] for part in merge_branches(Sum(branch, branch, branch)).parts]
        [24, 16]
    """
    firsts, seconds = zip(*(_two_convs(branch) for branch in expression.parts), strict=True)
    for convs in (firsts, seconds):
        if len({(tuple(c.weight.shape), c.geometry, c.groups) for c in convs}) > 1:
            raise ValueError("branches that differ in shape cannot be merged")
    first, second = firsts[0], seconds[0]
    a = replace(
        first,
        weight=torch.stack([conv.weight for conv in firsts], dim=1).flatten(0, 1),
        bias=_interleave_biases(firsts),
    )
    b = replace(
        second,
        weight=torch.stack([conv.weight for conv in seconds], dim=2).flatten(1, 2),
        bias=_add_biases(seconds),
    )
    return Chain(a, b)


def split_branches(expression: Chain, num_terms: int) -> Sum:
    """Rewrite a chain of two convolutions as a sum of T chains, the reverse of merging.

    Args:
        expression: ``Chain(a, b)`` of convolutions.
        num_terms: T, a divisor of the middle channels of each group of either part.

    Raises:
        ValueError: the middle channels do not fall into T terms.

    Example:
        >>> wide = Chain(Conv(torch.randn(24, 1, 3, 3), groups=8), Conv(torch.randn(16, 24, 1, 1)))
        >>> len(split_branches(wide, 3).parts)
        3
    """
    a, b = _two_convs(expression)
    if (a.out_channels // a.groups) % num_terms or b.weight.shape[1] % num_terms:
        raise ValueError(f"{a.out_channels} middle channels do not fall into {num_terms} terms")
    return Sum(
        *(
            Chain(
                replace(
                    a,
                    weight=a.weight[t::num_terms],
                    bias=None if a.bias is None else a.bias[t::num_terms],
                ),
                # The bias is added once, by the first term.
                replace(b, weight=b.weight[:, t::num_terms], bias=b.bias if t == 0 else None),
            )
            for t in range(num_terms)
        )
    )


def _two_convs(branch: object) -> tuple[Conv, Conv]:
    if isinstance(branch, Chain) and len(branch.parts) == 2:
        a, b = branch.parts
        if isinstance(a, Conv) and isinstance(b, Conv):
            return a, b
    raise ValueError("only chains of two convolutions can be merged or split")


def _interleave_biases(convs: tuple[Conv, ...]) -> torch.Tensor | None:
    if all(conv.bias is None for conv in convs):
        return None
    zero = convs[0].weight.new_zeros(convs[0].out_channels)
    biases = [zero if conv.bias is None else conv.bias for conv in convs]
    return torch.stack(biases, dim=1).flatten()


def _add_biases(convs: tuple[Conv, ...]) -> torch.Tensor | None:
    biases = [conv.bias for conv in convs if conv.bias is not None]
    return sum(biases[1:], biases[0]) if biases else None
