"""Channel selection and refit, against He et al. 2017 written out."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from decompose.algebra import Conv, Geometry, on_patches, run
from decompose.compression.layerwise.channel_selection import (
    channel_products,
    moments,
    refit_inputs,
    select_inputs,
)
from decompose.compression.layerwise.low_rank_regression import sampled_error
from decompose.compression.layerwise.sampling import Samples
from decompose.utils.errors import DecomposeError

RANDOM = torch.Generator().manual_seed(0)
SIZES = torch.tensor([0.05, 2.0, 1.0, 0.02, 1.5, 0.7, 0.01, 1.2])


def layer(sizes: Tensor = SIZES) -> tuple[Conv, Samples]:
    """Input channels that matter as their sizes say."""
    weight = torch.randn(6, 8, 3, 3, generator=RANDOM) * sizes.view(1, -1, 1, 1)
    conv = Conv(weight, torch.randn(6, generator=RANDOM), Geometry((1, 1), ((1, 1),) * 2, (1, 1)))
    seen = torch.randn(700, 8, 3, 3, generator=RANDOM).relu()
    return conv, Samples(seen, run(on_patches(conv), seen).flatten(1))


def parts(conv: Conv, samples: Samples) -> Tensor:
    """Z, the output's parts, ``(I, n O)``."""
    return torch.einsum("nikl,oikl->ino", samples.patches, conv.weight).flatten(1).double()


def unbiased(conv: Conv, samples: Samples) -> Tensor:
    """Sum of the channels' parts, ``(n O,)``."""
    assert conv.bias is not None
    return (samples.targets - conv.bias).flatten().double()


def test_the_products_are_those_of_the_channels_parts() -> None:
    conv, samples = layer()
    gram, products = channel_products(conv, moments(samples))
    z, y = parts(conv, samples), unbiased(conv, samples)
    torch.testing.assert_close(gram, z @ z.T, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(products, z @ y, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("num_kept", [2, 4, 6])
def test_the_channels_are_those_of_the_lasso(num_kept: int) -> None:
    from sklearn.linear_model import Lasso

    conv, samples = layer()
    found = select_inputs(conv, moments(samples), num_kept)
    z, y = parts(conv, samples).T.numpy(), unbiased(conv, samples).numpy()
    penalty = abs(z.T @ y).max() / len(y)
    while True:  # lambda is lowered until so many channels have a weight, as the paper raises it
        weights = Lasso(alpha=penalty, fit_intercept=False, max_iter=10_000).fit(z, y).coef_
        if (weights != 0).sum() >= num_kept:
            break
        penalty *= 0.99
    assert found.tolist() == weights.nonzero()[0].tolist()


def test_all_channels_kept_is_the_layer_itself() -> None:
    conv, samples = layer()
    rows = moments(samples)
    kept = select_inputs(conv, rows, 8)
    assert kept.tolist() == list(range(8))
    torch.testing.assert_close(refit_inputs(conv, rows, kept).weight, conv.weight)


def test_channels_that_carry_nothing_go_first_and_without_loss() -> None:
    conv, samples = layer(torch.tensor([1.0, 0, 1, 1, 0, 1, 0, 1]))
    rows = moments(samples)
    kept = select_inputs(conv, rows, 5)
    assert kept.tolist() == [0, 2, 3, 5, 7]
    pruned = refit_inputs(conv, rows, kept)
    assert sampled_error(pruned, samples.of_inputs(kept)) < 1e-9


def test_the_refit_is_the_least_squares_solution() -> None:
    conv, samples = layer()
    kept = torch.tensor([1, 2, 4])
    pruned = refit_inputs(conv, moments(samples), kept, ridge=1e-12)
    seen = samples.of_inputs(kept).patches.flatten(1)
    design = torch.cat([seen, torch.ones(len(seen), 1)], dim=1).double()
    solution = torch.linalg.lstsq(design, samples.targets.double()).solution.float()
    torch.testing.assert_close(pruned.weight.flatten(1), solution[:-1].T, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(pruned.bias, solution[-1], atol=1e-3, rtol=1e-3)


def test_it_errs_less_with_more_channels_and_less_than_without_the_refit() -> None:
    conv, samples = layer()
    rows = moments(samples)
    errors = []
    for num_kept in (2, 4, 6, 8):
        kept = select_inputs(conv, rows, num_kept)
        errors.append(sampled_error(refit_inputs(conv, rows, kept), samples.of_inputs(kept)))
        masked = samples.patches * torch.zeros(8).index_fill(0, kept, 1.0).view(1, -1, 1, 1)
        assert errors[-1] <= sampled_error(conv, Samples(masked, samples.targets)) + 1e-9
    assert all(a > b for a, b in pairwise(errors))


def test_no_channel_at_all_is_refused() -> None:
    conv, samples = layer()
    with pytest.raises(DecomposeError, match="cannot be kept"):
        select_inputs(conv, moments(samples), 0)
