"""Channels eliminated, the kernel refitted to the others."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decompose.algebra import Conv, eliminations, keep_inputs, keep_inputs_refitted
from decompose.algebra.channel_elimination import _ridge


def covariance_of(num: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(4 * num, num, generator=generator, dtype=torch.float64)
    rows = rows @ torch.randn(num, num, generator=generator, dtype=torch.float64)
    return rows.T @ rows / len(rows)


@given(st.integers(2, 6), st.sampled_from([(), (1, 1), (2, 3)]), st.integers(0, 99))
def test_the_error_is_that_of_least_squares_on_what_stays(
    channels: int, taps: tuple[int, ...], seed: int
) -> None:
    torch.manual_seed(seed)
    conv = Conv(torch.randn(5, channels, *taps, dtype=torch.float64))
    covariance = covariance_of(channels * conv.num_taps, seed)
    root = torch.randn(5, 5, dtype=torch.float64)
    metric = root.T @ root
    counts = list(range(channels - 1, 0, -1))
    regularised = covariance + _ridge(covariance)
    last = 0.0
    for count, (kept, error) in zip(
        counts, eliminations(conv, covariance, metric, counts), strict=True
    ):
        assert len(kept) == count
        assert kept.tolist() == sorted(set(kept.tolist()))
        columns = torch.arange(channels * conv.num_taps).view(channels, -1)[kept].flatten()
        whole = conv.weight.flatten(1)
        inside = regularised[columns][:, columns]
        fitted = torch.linalg.solve(inside, regularised[columns] @ whole.T).T
        difference = whole.clone()
        difference[:, columns] -= fitted
        expected = (metric @ difference @ regularised @ difference.T).trace()
        assert error == pytest.approx(float(expected), rel=1e-6)
        assert error >= last
        last = error


def test_of_twins_one_stays() -> None:
    weight = torch.randn(6, 4, 1, 1)
    twins = torch.eye(4).repeat(2, 2)
    conv = Conv(torch.cat([weight, weight], 1))
    ((kept, error),) = eliminations(conv, twins, torch.eye(6), [4])
    assert sorted(index % 4 for index in kept.tolist()) == [0, 1, 2, 3]
    energy = 4 * float(weight.square().sum())
    # Without a refit half of the energy would go.
    assert error < 0.25 * energy


@pytest.mark.parametrize("taps", [(), (1, 1)])
def test_the_refit_makes_up_for_what_varies_with_it(taps: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    conv = Conv(torch.randn(6, 8, *taps), torch.randn(6))
    covariance = covariance_of(8)
    kept = torch.tensor([0, 2, 3, 7])
    refitted = keep_inputs_refitted(conv, covariance, kept)
    assert refitted.weight.shape == (6, 4, *taps)
    assert refitted.bias is conv.bias

    def error(smaller: Conv) -> float:
        difference = conv.weight.flatten(1).double().clone()
        difference[:, kept] -= smaller.weight.flatten(1).double()
        return float((difference @ covariance @ difference.T).trace())

    assert error(refitted) < error(keep_inputs(conv, kept))


def test_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="grouped"):
        eliminations(Conv(torch.ones(4, 1, 3), groups=4), torch.eye(3), torch.eye(4), [2])
