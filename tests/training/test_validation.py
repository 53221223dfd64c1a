"""Scores of held-out images."""

from pathlib import Path

import pytest
import torch
from torch import nn

from decompose.training.validation import Validator
from decompose.utils.distributed import Processes
from tests.training.cases import image_dataset, make_images, models


class ByColour(nn.Module):
    """Tells the classes of ``make_images`` apart by the strongest colour."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, 3, H, W)`` to ``(batch, 3)``."""
        return x.mean((2, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_images(tmp_path_factory.mktemp("judging") / "data", 3)
    (folder / "c0" / "broken.png").write_text("no image")
    return folder


def judge(folder: Path, teacher: nn.Module | None) -> Validator:
    return Validator(image_dataset(folder), teacher, Processes.joined("cpu"), 4, 0)


def test_with_labels_it_is_accuracy(folder: Path) -> None:
    found = judge(folder, None)
    assert (found.measure, found.score(ByColour())) == ("accuracy", 1.0)
    assert list(found.unreadable.values()) == ["is no image"]


def test_without_labels_it_is_likeness(folder: Path) -> None:
    original, small = models()
    found = judge(folder, original)
    assert (found.measure, found.score(original)) == ("likeness", 1.0)
    batch = next(iter(image_dataset(folder).batches(10)))
    with torch.no_grad():
        wanted = original(batch.images)
        error = (small(batch.images) - wanted).square().sum() / wanted.square().sum()
    assert found.score(small) == pytest.approx(1 - float(error), abs=1e-6)
    assert list(found.unreadable.values()) == ["is no image"]
