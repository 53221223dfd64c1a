"""Images are mixed in pairs, by one share."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from decompose.training.mixup import mixup


@given(num=st.integers(1, 6), concentration=st.floats(0.1, 5), seed=st.integers(0, 99))
def test_each_image_is_mixed_with_another_by_its_share(
    num: int, concentration: float, seed: int
) -> None:
    torch.manual_seed(seed)
    images = torch.rand(num, 2, 3)
    mixed = mixup(images, concentration)
    assert 0.5 <= mixed.share <= 1
    assert sorted(mixed.others.tolist()) == list(range(num))
    expected = mixed.share * images + (1 - mixed.share) * images[mixed.others]
    torch.testing.assert_close(mixed.images, expected)


def test_the_share_follows_the_generator() -> None:
    torch.manual_seed(1)
    shares = {mixup(torch.rand(4, 2), 1.0).share for _ in range(5)}
    torch.manual_seed(1)
    assert len(shares) == 5
    assert mixup(torch.rand(4, 2), 1.0).share in shares


def test_a_large_concentration_mixes_by_halves() -> None:
    assert mixup(torch.rand(4, 2), 1e4).share < 0.55
