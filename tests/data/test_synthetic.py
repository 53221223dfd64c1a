"""Inputs made of nothing."""

from math import nan

import pytest
import torch
from torch import Tensor, nn

from decompose.data.synthetic import synthetic_inputs
from decompose.utils.errors import DecomposeError


@pytest.mark.parametrize("shape", [(3, 32, 40), (1, 200), (2, 8, 9, 10), (7,)])
def test_they_have_the_examples_shape_and_repeat(shape: tuple[int, ...]) -> None:
    example = torch.zeros(1, *shape, dtype=torch.float64)
    made = synthetic_inputs(example, num=2, seed=3)
    assert made.shape == (2, *shape)
    assert made.dtype == torch.float64
    assert made.std() > 0
    assert torch.isfinite(made).all()
    assert torch.equal(made, synthetic_inputs(example, num=2, seed=3))
    assert not torch.equal(made, synthetic_inputs(example, num=2, seed=4))


def test_they_are_scaled_as_the_example() -> None:
    example = 50 * torch.randn(1, 3, 32, 32) + torch.tensor([0.0, 100.0, -7.0]).view(1, 3, 1, 1)
    made = synthetic_inputs(example, num=4)
    torch.testing.assert_close(made.mean((0, 2, 3)), example.mean((0, 2, 3)), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(made.std((0, 2, 3)), example.std((0, 2, 3)), rtol=1e-2, atol=1e-2)


def test_they_are_scaled_as_the_networks_preprocessing(vgg16: nn.Module) -> None:
    made = synthetic_inputs(torch.zeros(1, 3, 64, 64), vgg16, num=2)
    # VGG16's images go from 0 to 255, their mean taken off.
    assert 20 < made.std() < 120
    assert made.abs().max() <= 255


def test_neighbours_are_alike_as_in_nature(images: Tensor) -> None:
    made = synthetic_inputs(images[:1], num=2)
    for some in (made, images):
        centred = some - some.mean((2, 3), keepdim=True)
        neighbours = (centred[..., 1:] * centred[..., :-1]).mean() / centred.square().mean()
        assert 0.75 < neighbours < 0.999


def test_whole_numbers_cannot_be_made() -> None:
    with pytest.raises(DecomposeError, match="floating numbers only"):
        synthetic_inputs(torch.zeros(1, 5, dtype=torch.int64))


SCALES = [
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ((0.0,) * 3, (1.0,) * 3),
    ((0.0,) * 3, (1 / 255,) * 3),
    ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3),
]


def small_network() -> nn.Sequential:
    conv, norm = nn.Conv2d(3, 16, 5, bias=False), nn.BatchNorm2d(16)
    return nn.Sequential(conv, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(("mean", "std"), SCALES)
def test_running_statistics_tell_the_scale(
    mean: tuple[float, ...], std: tuple[float, ...], images: Tensor
) -> None:
    vgg_pixels = images + 255 * torch.tensor([0.48235, 0.45882, 0.40784]).view(3, 1, 1)
    seen = (vgg_pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    model = small_network()
    with torch.no_grad():
        norm = model[1]
        assert isinstance(norm, nn.BatchNorm2d)
        norm.momentum = 1.0
        model(seen)
    made = synthetic_inputs(torch.zeros(1, 3, 32, 32), model.eval(), num=2)
    expected = synthetic_inputs(torch.zeros(1, 3, 32, 32), num=2, mean=mean, std=std)
    torch.testing.assert_close(made, expected)


def test_a_scale_that_is_supposed_is_said(recwarn: pytest.WarningsRecorder) -> None:
    example = torch.zeros(1, 3, 32, 32)
    with pytest.warns(UserWarning, match="ImageNet's mean and deviation are supposed"):
        made = synthetic_inputs(example, small_network(), num=1)
    torch.testing.assert_close(
        made, synthetic_inputs(example, num=1, mean=SCALES[0][0], std=SCALES[0][1])
    )
    synthetic_inputs(torch.rand(1, 3, 32, 32), small_network(), num=1)
    assert not recwarn.list


def test_a_scale_that_does_not_fit_is_refused() -> None:
    for mean, std in (((0.0, 0.0), None), (None, (0.0,)), (None, 0), ((), None), (nan, None)):
        with pytest.raises(DecomposeError, match="mean and std are one number or 3 each"):
            synthetic_inputs(torch.zeros(1, 3, 8, 8), mean=mean, std=std)


def test_one_number_is_for_all_channels() -> None:
    example = torch.zeros(1, 3, 16, 16)
    made = synthetic_inputs(example, num=4, mean=0, std=1 / 255)
    torch.testing.assert_close(made, synthetic_inputs(example, num=4, std=[1 / 255] * 3))
    assert 200 < float(made.max()) <= 255.01
