"""Inputs made of nothing."""

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
    # VGG16's pictures go from 0 to 255, their mean taken off.
    assert 20 < made.std() < 120
    assert made.abs().max() <= 255


def test_neighbours_are_alike_as_in_nature(pictures: Tensor) -> None:
    made = synthetic_inputs(pictures[:1], num=2)
    for images in (made, pictures):
        centred = images - images.mean((2, 3), keepdim=True)
        neighbours = (centred[..., 1:] * centred[..., :-1]).mean() / centred.square().mean()
        assert 0.75 < neighbours < 0.999


def test_whole_numbers_cannot_be_made() -> None:
    with pytest.raises(DecomposeError, match="floating numbers only"):
        synthetic_inputs(torch.zeros(1, 5, dtype=torch.int64))
