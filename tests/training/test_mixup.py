"""Images mixed in pairs."""

import pytest
import torch
from scipy.stats import beta

from decompose.training.mixup import Mixture

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mixture_is_the_sum_of_its_parts_by_their_shares(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    images = torch.rand(5, 3, 4, 6).to(dtype)
    mixture = Mixture.drawn(5, 1.0, CPU)
    mixed = mixture.applied(images)
    assert mixed.dtype == dtype
    for index, (partner, share) in enumerate(zip(mixture.partners, mixture.shares, strict=True)):
        expected = share.to(dtype) * images[index] + (1 - share.to(dtype)) * images[partner]
        torch.testing.assert_close(mixed[index], expected)


@pytest.mark.parametrize("alpha", [1.0, 0.2])
def test_shares_are_those_of_the_beta_distribution(alpha: float) -> None:
    torch.manual_seed(0)
    mixture = Mixture.drawn(4000, alpha, CPU)
    assert sorted(mixture.partners.tolist()) == list(range(4000))
    assert 0.5 <= float(mixture.shares.min()) <= float(mixture.shares.max()) <= 1
    mean = beta(alpha, alpha).expect(lambda share: max(share, 1 - share))
    assert float(mixture.shares.mean()) == pytest.approx(mean, abs=0.01)


def test_torchs_random_numbers_decide() -> None:
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(Mixture.drawn(50, 1.0, CPU))
    assert torch.equal(drawn[0].shares, drawn[1].shares)
    assert torch.equal(drawn[0].partners, drawn[1].partners)
    assert not torch.equal(drawn[0].shares, drawn[2].shares)
