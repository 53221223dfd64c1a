"""Kernels and their gradients, against ``compose`` and automatic differentiation."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from decompose.algebra import (
    Chain,
    ComposedKernel,
    Conv,
    Expression,
    Geometry,
    Sum,
    compose,
    leaves,
    map_leaves,
    merged,
)
from decompose.methods import get_method


def _conv(*shape: int, groups: int = 1) -> Conv:
    return Conv(torch.randn(*shape, dtype=torch.float64), groups=groups)


WHOLE, GROUPED = _conv(6, 4, 3, 3), _conv(6, 4, 3, 3, groups=2)

EXPRESSIONS = {
    "one factor": WHOLE,
    "no axes": Chain(_conv(3, 5), _conv(4, 3)),
    "one axis": Chain(_conv(4, 5, 3), _conv(6, 4, 1)),
    "groups that share no bound": Chain(_conv(12, 3, 1, 1, groups=4), _conv(6, 2, 3, 3, groups=6)),
    "a sum in a chain": Chain(
        _conv(5, 4, 3, 1), Sum(_conv(5, 1, 1, 3, groups=5), _conv(5, 5, 1, 3)), _conv(6, 5, 1, 1)
    ),
    **{
        f"{name}, {conv.groups} groups": get_method(name)(conv, 2)
        for name in ("pw_dw", "dw_pw", "spatial", "channel")
        for conv in (WHOLE, GROUPED)
    },
    "tucker": get_method("tucker")(WHOLE, 3),
    "merged": merged(get_method("dw_pw")(WHOLE, 3)),
    "nested": map_leaves(
        lambda c: merged(get_method("pw_dw")(c, 2)), get_method("spatial")(WHOLE, 4)
    ),
}


def _with_weights(expression: Expression, vector: Tensor) -> Expression:
    parts = iter(vector.split([leaf.weight.numel() for leaf in leaves(expression)]))
    return map_leaves(
        lambda leaf: replace(leaf, weight=next(parts).view_as(leaf.weight)), expression
    )


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_they_are_those_of_automatic_differentiation(name: str) -> None:
    expression = EXPRESSIONS[name]
    weights = torch.cat([leaf.weight.flatten() for leaf in leaves(expression)]).requires_grad_()
    expected = compose(_with_weights(expression, weights)).taps_last
    wanted = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(expected, weights, wanted)
    kernel, gradients_of = ComposedKernel(expression)(weights.detach())
    torch.testing.assert_close(kernel, expected.detach())
    torch.testing.assert_close(gradients_of(wanted), gradient)


def test_what_is_no_single_convolution_is_refused() -> None:
    pointwise = Geometry.pointwise(2)
    twice = Chain(replace(WHOLE, geometry=pointwise), _conv(6, 6, 3, 3))
    with pytest.raises(ValueError, match="spatial along the same axis"):
        ComposedKernel(twice)
