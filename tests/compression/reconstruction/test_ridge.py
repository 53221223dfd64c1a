"""Ridge regression from sums, beside scikit-learn's on the rows themselves."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from decompose.compression.reconstruction.ridge import (
    Fit,
    Moments,
    RidgePath,
    ridge_fit,
    scale_fit,
    shift_fit,
    squared_error,
)
from decompose.utils.errors import DecomposeError

Z = torch.randn(2, 60, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
Y = torch.randn(2, 60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 2
PRIOR = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@given(st.floats(1e-3, 1e3))
def test_it_is_scikit_learns_ridge_on_what_the_prior_leaves(ridge: float) -> None:
    fit = ridge_fit(Moments.of(Z, Y), PRIOR, ridge)
    for group in range(2):
        z, residual = Z[group].numpy(), (Y[group] - Z[group] @ PRIOR[group].T).numpy()
        reference = Ridge(alpha=ridge * z.var(axis=0).mean() * len(z), solver="svd")
        reference.fit(z, residual)
        np.testing.assert_allclose(fit.weights[group] - PRIOR[group], reference.coef_, atol=1e-8)
        np.testing.assert_allclose(fit.bias[group], reference.intercept_, atol=1e-8)


@given(st.lists(st.integers(1, 59), max_size=4, unique=True))
def test_portions_add_up_to_the_whole(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), 60]
    portions = [Moments.of(Z[:, a:b], Y[:, a:b]) for a, b in pairwise(ends)]
    total = portions[0]
    for portion in portions[1:]:
        total = total + portion
    whole = Moments.of(Z, Y)
    for name in ("count", "z", "y", "zz", "yz", "yy"):
        torch.testing.assert_close(getattr(total, name), getattr(whole, name))


@pytest.mark.parametrize("spread", [1.0, 1e-6])
def test_solved_in_float32_it_is_nearly_the_same(spread: float) -> None:
    # With the smaller spread, the features are nearly one: float32 has no root.
    scale = torch.tensor([1.0, *[spread] * 4], dtype=torch.float64)
    z = (Z - 1) @ torch.full((5, 5), 1.0, dtype=torch.float64) + (Z - 1) * scale * spread
    rows = Moments.of(z, Y)
    expected = RidgePath(rows, PRIOR).fit(1e-8)
    found = RidgePath(rows, PRIOR, torch.float32).fit(1e-8)
    best = squared_error(rows, expected)
    assert squared_error(rows, found) == pytest.approx(best, rel=1e-3)


def test_the_error_is_that_of_the_rows() -> None:
    bias = torch.randn(2, 3, dtype=torch.float64)
    direct = (Y - Z @ PRIOR.mT - bias.unsqueeze(1)).square().sum()
    assert squared_error(Moments.of(Z, Y), Fit(PRIOR, bias)) == pytest.approx(float(direct))


def test_each_freedom_more_lowers_the_error() -> None:
    rows = Moments.of(Z, Y)
    fits = [
        Fit(PRIOR, torch.zeros(2, 3, dtype=torch.float64)),
        shift_fit(rows, PRIOR),
        scale_fit(rows, PRIOR),
        ridge_fit(rows, PRIOR, 1e-6),
    ]
    errors = [squared_error(rows, fit) for fit in fits]
    assert errors == sorted(errors, reverse=True)


def test_features_that_are_always_zero_keep_their_prior() -> None:
    dead = torch.cat([Z, torch.zeros(2, 60, 2, dtype=torch.float64)], dim=2)
    prior = torch.cat([PRIOR, torch.ones(2, 3, 2, dtype=torch.float64)], dim=2)
    fit = ridge_fit(Moments.of(dead, Y), prior, 0.1)
    torch.testing.assert_close(fit.weights[..., 5:], prior[..., 5:])
    silent = Moments.of(torch.zeros_like(Z), Y)
    torch.testing.assert_close(ridge_fit(silent, PRIOR, 0.1).weights, PRIOR)
    torch.testing.assert_close(scale_fit(silent, PRIOR).weights, PRIOR)


@pytest.mark.parametrize("count", [1, 2])
def test_a_row_or_two_are_enough_to_go_on(count: int) -> None:
    rows = Moments.of(
        Z[:, :1].float().repeat(1, count, 1) * 100, Y[:, :1].float().repeat(1, count, 1)
    )
    noisy = Moments(rows.count, rows.z, rows.y, rows.zz * (1 - 1e-7), rows.yz, rows.yy)
    for ridge in (3.0, 0.003):
        fit = ridge_fit(noisy, PRIOR, ridge)
        assert torch.isfinite(fit.weights).all()
        assert squared_error(noisy, fit) < 1e-2 * float(rows.yy.sum())


def test_rows_that_are_not_finite_have_no_fit_and_an_infinite_error() -> None:
    z = Z.clone()
    z[0, 0, 0] = float("nan")
    rows = Moments.of(z, Y)
    assert squared_error(rows, shift_fit(rows, PRIOR)) == float("inf")
    with pytest.raises(DecomposeError, match="overflows"):
        ridge_fit(rows, PRIOR, 0.1)
