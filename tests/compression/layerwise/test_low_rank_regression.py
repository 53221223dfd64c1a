"""The solvers of Zhang et al. 2016, against their formulas written out."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from decompose.algebra import Conv, Geometry, leaves, on_patches, run
from decompose.compression.layerwise.low_rank_regression import (
    LowRankFit,
    ReducedRank,
    auxiliary,
    decompose_channels,
    decompose_spatially,
    rectified_reduced_rank,
    refit_last,
    sampled_error,
)
from decompose.compression.layerwise.sampling import Samples
from decompose.layers.relu import Rectifier
from decompose.methods import get_method

NONE = 1e-12
"""A ridge that pulls at nothing."""

RANDOM = torch.Generator().manual_seed(0)
CORRELATED = torch.randn(8, 8, generator=RANDOM, dtype=torch.float64)
Y = torch.randn(600, 8, generator=RANDOM, dtype=torch.float64) @ CORRELATED + 0.3
X = Y + 0.5 * torch.randn(600, 8, generator=RANDOM, dtype=torch.float64) @ CORRELATED.flip(0)
EYE = torch.eye(8, dtype=torch.float64)
RECTIFIER = Rectifier(torch.tensor([1.0, 1, 2, 1, -1, 0.5, 1, 1]), torch.linspace(-0.4, 0.4, 8))


def error(fit: LowRankFit) -> float:
    return float((fit.predict(X) - Y).square().sum())


def matrix(fit: LowRankFit) -> Tensor:
    return fit.mixing @ fit.weights


def layer() -> tuple[Conv, Samples]:
    """A layer whose input has changed since."""
    weight = torch.randn(12, 5, 3, 3, generator=RANDOM)
    conv = Conv(weight, torch.randn(12, generator=RANDOM), Geometry((1, 1), ((1, 1),) * 2, (1, 1)))
    before = torch.randn(900, 5, 3, 3, generator=RANDOM)
    now = before + 0.3 * torch.randn(900, 5, 3, 3, generator=RANDOM)
    return conv, Samples(now, run(on_patches(conv), before).flatten(1))


def test_equal_responses_give_their_principal_components() -> None:
    centred = Y - Y.mean(0)
    first = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -3:]
    found = ReducedRank(Y, EYE, NONE).fit(Y, 3)
    torch.testing.assert_close(matrix(found), first @ first.T, atol=1e-8, rtol=1e-8)


def test_unequal_responses_give_the_truncated_gsvd() -> None:
    # Section 3.3: the least-squares M, and its SVD in the metric of the responses.
    y, x = (Y - Y.mean(0)).T.numpy(), (X - X.mean(0)).T.numpy()
    least_squares = y @ x.T @ np.linalg.inv(x @ x.T)
    values, vectors = np.linalg.eigh(x @ x.T)
    root = vectors @ np.diag(values**0.5) @ vectors.T
    u, s, wt = np.linalg.svd(least_squares @ root)
    for rank in (1, 4, 8):
        naive = u[:, :rank] @ np.diag(s[:rank]) @ wt[:rank] @ np.linalg.inv(root)
        found = matrix(ReducedRank(X, EYE, NONE).fit(Y, rank))
        np.testing.assert_allclose(found.numpy(), naive, atol=1e-8)


def test_no_matrix_of_that_rank_is_better() -> None:
    best = ReducedRank(X, EYE, NONE).fit(Y, 3)
    for _ in range(200):
        moved = LowRankFit(
            best.mixing + 0.05 * torch.randn(8, 3, dtype=torch.float64),
            best.weights + 0.05 * torch.randn(3, 8, dtype=torch.float64),
            best.bias,
        )
        assert error(moved) > error(best)


def test_the_ridge_pulls_towards_what_is_known() -> None:
    prior = torch.randn(8, 8, generator=RANDOM, dtype=torch.float64)
    pulled = matrix(ReducedRank(X, prior, 1e6).fit(Y, 8))
    torch.testing.assert_close(pulled, prior, atol=1e-4, rtol=1e-4)


def test_the_auxiliary_output_is_the_best_of_a_fine_grid() -> None:
    wanted, given = torch.randn(2, 40, generator=RANDOM, dtype=torch.float64)
    grid = torch.linspace(-6, 6, 24001, dtype=torch.float64).unsqueeze(1)
    for penalty in (0.01, 0.3, 1.0, 5.0):
        loss = (wanted.clamp_min(0) - grid.clamp_min(0)) ** 2 + penalty * (grid - given) ** 2
        found = auxiliary(wanted, given, penalty)
        reached = (wanted.clamp_min(0) - found.clamp_min(0)) ** 2 + penalty * (found - given) ** 2
        assert (reached <= loss.min(0).values + 1e-9).all()


def test_what_goes_on_is_nearer_than_without_the_rectifier() -> None:
    def loss(fit: LowRankFit) -> float:
        return float((RECTIFIER.read(fit.predict(X)) - RECTIFIER.read(Y)).square().sum())

    for rank in (2, 4, 8):
        plain = ReducedRank(X, EYE, NONE).fit(Y, rank)
        aware = rectified_reduced_rank(X, Y, rank, EYE, RECTIFIER, NONE)
        assert loss(aware) < loss(plain)


@pytest.mark.parametrize("rectifier", [None, Rectifier(torch.ones(12), torch.zeros(12))])
def test_channel_decomposition_errs_less_with_rank_and_never_more_than_without_data(
    rectifier: Rectifier | None,
) -> None:
    conv, samples = layer()
    ranks = (1, 3, 6, 9, 12)
    made = [decompose_channels(conv, samples, rank, rectifier, ridge=1e-6) for rank in ranks]
    errors = [sampled_error(expression, samples, rectifier) for expression in made]
    assert all(a > b for a, b in pairwise(errors))
    for rank, reached in zip(ranks, errors, strict=True):
        free = sampled_error(get_method("channel")(conv, rank), samples, rectifier)
        assert reached < free


def test_full_rank_on_unchanged_inputs_is_exact() -> None:
    conv, changed = layer()
    samples = Samples(changed.patches, run(on_patches(conv), changed.patches).flatten(1))
    for expression in (
        decompose_channels(conv, samples, 12),
        decompose_spatially(conv, samples, 15),
    ):
        assert sampled_error(expression, samples) < 1e-9


def test_spatial_decomposition_errs_less_with_rank_and_never_more_than_without_data() -> None:
    conv, samples = layer()
    ranks = (1, 4, 8, 15)
    errors = [sampled_error(decompose_spatially(conv, samples, r), samples) for r in ranks]
    assert all(a > b for a, b in pairwise(errors))
    for rank, reached in zip(ranks, errors, strict=True):
        assert reached < sampled_error(get_method("spatial")(conv, rank), samples)


def test_the_refit_is_the_least_squares_solution() -> None:
    conv, samples = layer()
    truncated = get_method("spatial")(conv, 4)
    first, second = leaves(truncated)
    middle = torch.einsum("nihw,rih->nrw", samples.patches, first.weight[..., 0]).flatten(1)
    design = torch.cat([middle, torch.ones(len(middle), 1)], dim=1)
    solution = torch.linalg.lstsq(design.double(), samples.targets.double()).solution
    _, refitted = leaves(refit_last(truncated, samples, ridge=NONE))
    weights = solution[:-1].T.reshape(second.weight.shape).float()
    torch.testing.assert_close(refitted.weight, weights, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(refitted.bias, solution[-1].float(), atol=1e-4, rtol=1e-4)


def test_the_second_factor_can_be_decomposed_in_turn() -> None:
    conv, samples = layer()
    first = decompose_spatially(conv, samples, 8)
    both = decompose_channels(first, samples, 6, ridge=1e-6)
    assert [leaf.weight.shape for leaf in leaves(both)] == [
        (8, 5, 3, 1),
        (6, 8, 1, 3),
        (12, 6, 1, 1),
    ]
    assert sampled_error(both, samples) < 1
    with pytest.raises(ValueError, match="one last convolution"):
        decompose_channels(get_method("pw_dw")(conv, 2), samples, 6)
