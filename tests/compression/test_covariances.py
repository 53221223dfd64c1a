"""Covariances by channel and by tap, beside those of whole patches."""

import pytest
import torch
from torch import nn

from decompose.compression.covariances import AxisCovariances, gather_covariances, is_whitenable
from decompose.compression.statistics import gather
from decompose.layers.discovery import find_decomposable
from decompose.layers.modules import to_conv
from tests.compression.test_statistics import Twice, X


def equal(a: AxisCovariances, b: AxisCovariances) -> None:
    torch.testing.assert_close(a.channels, b.channels, check_dtype=False)
    for left, right in zip(a.taps, b.taps, strict=True):
        torch.testing.assert_close(left, right, check_dtype=False)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, (3, 2), padding=1, stride=2),
        nn.Conv2d(3, 6, 3, groups=3),
        nn.ConvTranspose2d(3, 4, (2, 3)),
        nn.Linear(12, 5),
    ],
)
def test_they_are_what_the_patches_covariance_says(layer: nn.Module) -> None:
    model = nn.Sequential(layer).double()
    layers = find_decomposable(model)
    conv = to_conv(model[0])  # type: ignore[arg-type]
    expected = AxisCovariances.of_patches(conv, gather(model, X, layers).layers["0"])
    equal(gather_covariances(model, X, layers)["0"], expected)
    equal(gather_covariances(model, X.split(1), layers)["0"], expected)
    equal(gather_covariances(model, X.split(1), layers, size=3)["0"], expected)


def test_a_layer_used_twice_is_seen_twice() -> None:
    model = Twice().double()
    layers = find_decomposable(model)
    expected = AxisCovariances.of_patches(
        to_conv(model.conv), gather(model, X, layers).layers["conv"]
    )
    found = gather_covariances(model, X, layers)
    equal(found["conv"], expected)
    found["first"].whitening()


def test_a_layer_that_is_not_reached_is_left_out() -> None:
    model = nn.ModuleDict({"used": nn.Conv2d(3, 3, 1), "idle": nn.Conv2d(3, 3, 1)})
    model.forward = lambda x: model["used"](x)  # type: ignore[method-assign]
    assert set(gather_covariances(model, X.float(), find_decomposable(model))) == {"used"}


def test_the_widest_layers_stay_as_they_are() -> None:
    assert is_whitenable(to_conv(nn.Linear(4096, 2)))
    assert not is_whitenable(to_conv(nn.Linear(25088, 2)))
