"""A budget of accuracy: the smallest model within a drop, and refusals where images are too few."""

from __future__ import annotations

import doctest

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from decompose.data.bundled import images_in_memory
from decompose.data.images import ImageDataset
from decompose.evaluation import accuracy_budget
from decompose.evaluation.accuracy_budget import compress_within_drop, images_needed
from decompose.layers.costs import count_macs, trace_shapes
from decompose.utils.errors import DecomposeError

EXAMPLE = torch.zeros(1, 3, 8, 8)
INPUTS = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(2)) - 0.5


def transform(image: object) -> Tensor:
    return pil_to_tensor(image).float() / 255 - 0.5


def classifier(rank: int) -> nn.Module:
    """A small classifier whose second kernel is a chain of ``rank`` channels."""
    torch.manual_seed(0)
    inner = nn.Conv2d(16, 16, 3, padding=1)
    with torch.no_grad():
        left, right = torch.randn(16, rank), torch.randn(rank, 16 * 9)
        inner.weight.copy_((left @ right / 12).view_as(inner.weight))
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        inner,
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 4),
    ).eval()


def dataset(model: nn.Module, num: int, *, labelled: bool = True) -> ImageDataset:
    """Images labelled with the model's own classes, or not labelled."""
    torch.manual_seed(1)
    images = torch.rand(num, 3, 8, 8)
    with torch.no_grad():
        labels = model(images - 0.5).argmax(1)
    if not labelled:
        labels = torch.full_like(labels, -1)
    return images_in_memory(images, labels, transform, tuple("abcd") if labelled else ())


def macs(model: nn.Module) -> int:
    return sum(count_macs(model, trace_shapes(model, EXAMPLE)).values())


@pytest.mark.parametrize("labelled", [True, False])
def test_a_model_of_low_rank_gets_small_and_keeps_its_classes(*, labelled: bool) -> None:
    model = classifier(rank=2)
    data = dataset(model, 120, labelled=labelled)
    found = compress_within_drop(
        model, EXAMPLE, data, 0.1, calibrate=INPUTS, steps=1, methods=("channel",)
    )
    assert found.share <= 0.5
    assert macs(found.model) <= found.share * macs(model)
    assert found.change.low >= -0.1
    assert found.is_labelled is labelled
    assert found.num_checked == 60
    shares = [trial.share for trial in found.trials]
    assert shares[0] == 0.5
    assert min(s for s, t in zip(shares, found.trials, strict=True) if t.change) <= found.share


def test_a_loss_that_the_images_do_not_allow_is_refused() -> None:
    model = classifier(rank=16)
    data = dataset(model, 120)
    with pytest.raises(DecomposeError, match=r"no smaller model keeps within 4\.00 points"):
        compress_within_drop(
            model, EXAMPLE, data, 0.04, calibrate=INPUTS, steps=1, methods=("channel",)
        )


def test_too_few_images_are_refused_with_the_number_it_takes() -> None:
    model = classifier(rank=2)
    with pytest.raises(DecomposeError, match=r"100 images cannot confirm .* 388 at least"):
        compress_within_drop(model, EXAMPLE, dataset(model, 100), 0.01)
    assert images_needed(0.005) > images_needed(0.01) > images_needed(0.05)


def test_settings_out_of_bounds_are_refused() -> None:
    model = classifier(rank=2)
    data = dataset(model, 40)
    with pytest.raises(DecomposeError, match="out of bounds"):
        compress_within_drop(model, EXAMPLE, data, 1.5)
    with pytest.raises(DecomposeError, match="choose of macs"):
        compress_within_drop(model, EXAMPLE, data, 0.2, budget="energy")


def test_examples_run() -> None:
    assert doctest.testmod(accuracy_budget).failed == 0
