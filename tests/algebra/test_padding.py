"""An expression that pads by itself, beside the original on a padded input."""

import torch
import torch.nn.functional as F

from decompose.algebra import Chain, Conv, Expression, Geometry, Sum, leaves, run
from decompose.algebra.padding import with_input_padding
from decompose.methods import METHODS

PADDING = ((0, 1), (2, 0))


def conv(*, bias: bool = True) -> Conv:
    geometry = Geometry((2, 1), ((1, 1), (0, 0)), (1, 2))
    return Conv(torch.randn(6, 4, 3, 3), torch.randn(6) if bias else None, geometry)


def check(expression: Expression) -> None:
    x = torch.randn(2, 4, 9, 8)
    wide = F.pad(x, (2, 0, 0, 1))
    torch.testing.assert_close(
        run(with_input_padding(expression, PADDING), x), run(expression, wide), rtol=1e-4, atol=1e-4
    )


def test_what_every_method_makes() -> None:
    able = [method for method in METHODS.values() if method.why_not(conv()) is None]
    assert len(able) > 4
    for method in able:
        check(method(conv(), 2))


def test_nestings_and_biases_in_between() -> None:
    pointwise = Conv(torch.randn(4, 4, 1, 1))
    biased = Conv(torch.randn(4, 4, 1, 1), torch.randn(4))
    check(Chain(pointwise, Sum(Chain(pointwise, conv()), Chain(biased, conv(bias=False)))))
    check(Chain(biased, pointwise))
    check(Chain(pointwise, pointwise))


def test_only_leaves_that_move_are_padded() -> None:
    padded = with_input_padding(Chain(Conv(torch.randn(4, 4, 1, 1)), conv()), PADDING)
    assert [leaf.geometry.padding for leaf in leaves(padded)] == [
        ((0, 0), (0, 0)),
        ((1, 2), (2, 0)),
    ]
