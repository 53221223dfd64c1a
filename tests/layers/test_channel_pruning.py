"""Modules that lose output channels."""

import pytest
import torch
from torch import nn

from decompose.layers.channel_pruning import kept_channels, narrow_, widen_
from decompose.utils.errors import DecomposeError

KEPT = torch.tensor([0, 2, 3])


def test_convolutions_and_normalisations_keep_rows() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 5, 3, groups=5)
    ).eval()
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean = torch.randn(5)
    x = torch.randn(1, 2, 8, 8)
    expected = model(x)[:, KEPT]
    for name in ("0", "1", "2"):
        narrow_(model, name, KEPT)
    torch.testing.assert_close(model(x), expected)
    kept = kept_channels(model[2]).outputs
    assert kept is not None
    assert torch.equal(kept, KEPT)
    # What is narrow already stays.
    narrow_(model, "0", KEPT)
    torch.testing.assert_close(model(x), expected)


def test_memory_format_and_gradients_stay() -> None:
    conv = nn.Conv2d(8, 5, 3).to(memory_format=torch.channels_last).requires_grad_(False)
    model = nn.Sequential(conv)
    narrow_(model, "0", KEPT)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert not conv.weight.requires_grad


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Conv2d(4, 3, 1), "3 channels, none 4"),
        (nn.BatchNorm2d(3), "3 channels, none 4"),
        (nn.Conv2d(4, 6, 1, groups=2), "fall into groups"),
        (nn.ConvTranspose2d(4, 6, 1), "no convolution"),
        (nn.Linear(4, 6), "no convolution"),
    ],
)
def test_others_are_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(DecomposeError, match=message):
        narrow_(nn.Sequential(module), "0", torch.tensor([0, 4]))


def test_what_is_taken_comes_back_as_zeros() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 5, 3, groups=5)
    ).eval()
    x = torch.randn(1, 2, 8, 8)
    for name in ("0", "1", "2"):
        narrow_(model, name, KEPT)
    narrow = model(x)
    for name in ("0", "1", "2"):
        widen_(model, name, KEPT, 5)
    whole = model(x)
    torch.testing.assert_close(whole[:, KEPT], narrow)
    assert not whole[:, [1, 4]].any()
