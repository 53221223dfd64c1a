"""Relative squared errors."""

import pytest
import torch

from decompose.algebra import Conv, Deviation, Geometry, Sum, weight_deviation


def test_it_is_the_squared_error_over_the_energy() -> None:
    reference = torch.randn(3, 4)
    deviation = Deviation.between(reference * 1.5, reference)
    assert deviation.relative == pytest.approx(0.25)
    assert (deviation + deviation).relative == pytest.approx(0.25)


def test_zeros_have_no_relative_error_unless_there_is_an_error() -> None:
    assert Deviation().relative == 0
    assert Deviation.between(torch.ones(1), torch.zeros(1)).relative == float("inf")


def test_half_precision_does_not_overflow() -> None:
    reference = torch.full((100,), 300.0, dtype=torch.float16)
    assert Deviation.between(2 * reference, reference).relative == pytest.approx(1)


@pytest.mark.parametrize("masked", [float("-inf"), float("nan")])
def test_what_is_not_finite_in_the_reference_is_left_out(masked: float) -> None:
    reference = torch.tensor([2.0, masked, 1.0])
    approximation = torch.tensor([2.0, masked, 0.0])
    assert Deviation.between(approximation, reference).relative == pytest.approx(1 / 5)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_an_approximation_that_is_not_finite_is_infinitely_far(bad: float) -> None:
    assert Deviation.between(torch.tensor([bad, 1.0]), torch.ones(2)).relative == float("inf")


def test_kernels_are_compared_through_their_groups() -> None:
    grouped = Conv(torch.randn(4, 1, 3), groups=4)
    dense = Conv(torch.randn(4, 4, 3))
    assert weight_deviation(Sum(grouped, dense), dense).squared_error == pytest.approx(
        float(grouped.weight.square().sum()), rel=1e-5
    )
    with pytest.raises(ValueError, match="shape"):
        weight_deviation(Conv(torch.randn(4, 4, 1)), dense)


def test_a_single_tap_has_no_dilation() -> None:
    weight = torch.randn(2, 2, 1, 3)
    moving = Geometry((1, 1), ((0, 0), (1, 1)), (2, 1))
    still = Geometry((1, 1), ((0, 0), (1, 1)), (1, 1))
    assert (
        weight_deviation(Conv(weight, geometry=still), Conv(weight, geometry=moving)).relative == 0
    )
    wide = Geometry((1, 1), ((0, 0), (1, 1)), (1, 2))
    with pytest.raises(ValueError, match="dilation"):
        weight_deviation(Conv(weight, geometry=wide), Conv(weight, geometry=still))
