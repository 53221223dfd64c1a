"""Regression on what goes on."""

from functools import partial
from itertools import pairwise

import torch

from decompose.compression.reconstruction import relu_regression
from decompose.compression.reconstruction.relu_regression import (
    RowSample,
    rectified_energy,
    rectified_error,
    rectified_fit,
)
from decompose.compression.reconstruction.ridge import Moments, RidgePath, ridge_fit
from decompose.layers.relu import Rectifier

GENERATOR = torch.Generator().manual_seed(0)
Z = torch.randn(2, 400, 5, generator=GENERATOR)
Y = torch.randn(2, 400, 3, generator=GENERATOR) + Z @ torch.randn(2, 5, 3, generator=GENERATOR)
PRIOR = torch.zeros(2, 3, 5, dtype=torch.float64)
RECTIFIER = Rectifier(torch.tensor([1.0, 2, 1, -1, 1, 3]), torch.linspace(-1, 1, 6)).by_group(2)


def portions(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(Z.chunk(count, 1), Y.chunk(count, 1), strict=True))


def test_what_goes_on_comes_nearer_than_by_plain_regression() -> None:
    rows, start = Moments.of(Z, Y), ridge_fit(Moments.of(Z, Y), PRIOR, 1e-3)
    fit = rectified_fit(
        rows, portions(4), partial(RidgePath(rows, PRIOR).fit, 1e-3), start, RECTIFIER
    )
    errors = [rectified_error(portions(4), f, RECTIFIER) for f in (fit, start)]
    assert errors[0] < 0.98 * errors[1] < rectified_energy(portions(4), RECTIFIER)


def test_portions_may_be_cut_anywhere() -> None:
    rows, start = Moments.of(Z, Y), ridge_fit(Moments.of(Z, Y), PRIOR, 0.1)
    path = RidgePath(rows, PRIOR)
    one, many = (
        rectified_fit(rows, portions(n), partial(path.fit, 0.1), start, RECTIFIER) for n in (1, 8)
    )
    torch.testing.assert_close(one.weights, many.weights, atol=1e-5, rtol=1e-5)


def test_a_fit_that_is_right_already_stays() -> None:
    start = ridge_fit(Moments.of(Z, Y), PRIOR, 1e-9)
    exact = Z @ start.weights.float().mT + start.bias.float().unsqueeze(1)
    rows = Moments.of(Z, exact)
    fit = rectified_fit(
        rows, [(Z, exact)], partial(RidgePath(rows, PRIOR).fit, 1e-9), start, RECTIFIER
    )
    torch.testing.assert_close(fit.weights, start.weights, atol=1e-4, rtol=1e-4)


def test_memory_is_bounded_and_the_choice_is_even(monkeypatch) -> None:
    monkeypatch.setattr(relu_regression, "_MOST_KEPT", 1000)
    keeper = RowSample()
    for index in range(200):
        keeper.add((torch.full((1, 10, 5), float(index)), torch.zeros(1, 10, 2)))
    kept = [int(features[0, 0, 0]) for features, _ in keeper.chunks]
    assert 5 < len(kept) <= 14
    assert len({b - a for a, b in pairwise(kept)}) == 1
