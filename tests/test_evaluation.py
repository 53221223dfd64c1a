"""Accuracy over real photographs in class folders."""

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from decompose.data import Pictures, labelled_folder
from decompose.errors import DecomposeError
from decompose.evaluation import evaluate

CLASSES = {
    "n01_people": ("astronaut.png",),
    "n02_animals": ("chelsea.png",),
    "n03_things": ("coffee.png", "rocket.jpg"),
    "n04_textures": ("brick.png", "grass.png", "gravel.png"),
    "n05_streets": ("motorcycle_left.png",),
    "n06_coins": ("coins.png",),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine real photographs in six class folders, small enough to be quick."""
    for name, files in CLASSES.items():
        (tmp_path / name).mkdir()
        for file in files:
            with resources.as_file(resources.files("skimage.data") / file) as path:
                picture = Image.open(path).convert("RGB")
            picture.thumbnail((64, 64))
            picture.save(tmp_path / name / f"{Path(file).stem}.jpg")
    return tmp_path


def to_tensor(picture: Image.Image) -> Tensor:
    """Preprocess as simply as can be."""
    return pil_to_tensor(picture.resize((32, 32))).float() / 255


class Fixed(nn.Module):
    """Gives scores that were set beforehand, one row a picture in turn."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.rows: Iterator[Tensor] = iter(scores)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 3, H, W)`` to ``(batch, classes)``."""
        return torch.stack([next(self.rows) for _ in x])


def test_accuracies_are_counted(folder: Path) -> None:
    pictures = labelled_folder(folder, to_tensor)
    labels = torch.tensor([label for _, label in pictures.samples])
    scores = torch.eye(6)[labels]
    scores[0] = torch.tensor([0.5, 1, 0, 0, 0, 0])  # second best
    scores[1] = torch.tensor([5.0, 0, 4, 3, 2, 1])  # the worst of six
    accuracy = evaluate(Fixed(scores), pictures, batch_size=4)
    assert accuracy.top1 == pytest.approx(7 / 9)
    assert accuracy.top5 == pytest.approx(8 / 9)
    assert (accuracy.num_pictures, accuracy.num_classes) == (9, 6)


def test_unreadable_pictures_are_named_and_do_not_count(folder: Path) -> None:
    (folder / "n03_things" / "broken.jpg").write_text("no picture")
    pictures = labelled_folder(folder, to_tensor)
    readable = [label for path, label in pictures.samples if "broken" not in path]
    accuracy = evaluate(Fixed(torch.eye(6)[readable]), pictures, batch_size=1, workers=2)
    assert accuracy.top1 == 1
    assert accuracy.num_pictures == 9
    assert list(accuracy.unreadable) == [str(folder / "n03_things" / "broken.jpg")]
    assert accuracy.to_dict()["unreadable"] == accuracy.unreadable


def test_few_classes_have_no_top5(folder: Path) -> None:
    pictures = labelled_folder(folder, to_tensor)
    few = Pictures(pictures.samples[:2], to_tensor, ["people", "animals"])
    accuracy = evaluate(Fixed(torch.eye(2)), few)
    assert (accuracy.top1, accuracy.top5) == (1, None)


def test_networks_that_are_no_classifiers_of_the_data(folder: Path) -> None:
    pictures = labelled_folder(folder, to_tensor)
    with pytest.raises(DecomposeError, match="6 class folders, but the network scores 7"):
        evaluate(Fixed(torch.zeros(9, 7)), pictures)
    with pytest.raises(DecomposeError, match="not finite"):
        evaluate(Fixed(torch.full((9, 6), float("nan"))), pictures)
    with pytest.raises(DecomposeError, match=r"output of shape \(6, 2\)"):
        evaluate(Fixed(torch.zeros(9, 6, 2)), pictures)


def test_when_nothing_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.jpg").write_text("no picture")
    with pytest.raises(DecomposeError, match=r"no picture could be read.*a\.jpg: is no picture"):
        evaluate(Fixed(torch.zeros(1, 1)), labelled_folder(tmp_path, to_tensor))
