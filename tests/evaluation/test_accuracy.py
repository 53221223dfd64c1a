"""Accuracy over real photographs in class folders."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from decompose.data.folders import labelled_folder
from decompose.data.images import ImageDataset
from decompose.evaluation.accuracy import evaluate
from decompose.evaluation.predictions import forget
from decompose.utils.errors import DecomposeError
from tests.data.cases import photograph

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
            image = photograph(file, 64)
            image.save(tmp_path / name / f"{Path(file).stem}.jpg")
    return tmp_path


def to_tensor(image: Image.Image) -> Tensor:
    """Preprocess as simply as can be."""
    return pil_to_tensor(image.resize((32, 32))).float() / 255


class Fixed(nn.Module):
    """Gives scores that were set beforehand, one row an image in turn."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.rows: Iterator[Tensor] = iter(scores)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 3, H, W)`` to ``(batch, classes)``."""
        return torch.stack([next(self.rows) for _ in x])


def test_accuracies_are_counted(folder: Path) -> None:
    images = labelled_folder(folder, to_tensor)
    labels = torch.tensor([label for _, label in images.samples])
    scores = torch.eye(6)[labels]
    scores[0] = torch.tensor([0.5, 1, 0, 0, 0, 0])  # second best
    scores[1] = torch.tensor([5.0, 0, 4, 3, 2, 1])  # the worst of six
    models = {"right": Fixed(torch.eye(6)[labels]), "worse": Fixed(scores)}
    found = evaluate(models, images, batch_size=4)
    right, worse = found.accuracies.values()
    assert (right.top1.value, right.top1_change.value, right.agreement) == (1, 0, 1)
    assert worse.top1.value == worse.agreement == pytest.approx(7 / 9)
    assert worse.top5 is not None
    assert worse.top5.value == pytest.approx(8 / 9)
    assert worse.top1_change.value == pytest.approx(-2 / 9)
    assert worse.top5_change is not None
    assert worse.top5_change.value == pytest.approx(-1 / 9)
    assert (found.num_pictures, found.num_classes) == (9, 6)
    assert "77.78" in str(found.table())


def test_unreadable_images_are_named_and_do_not_count(folder: Path) -> None:
    (folder / "n03_things" / "broken.jpg").write_text("no image")
    images = labelled_folder(folder, to_tensor)
    readable = [label for path, label in images.samples if "broken" not in path]
    model = Fixed(torch.eye(6)[readable])
    found = evaluate({"network": model}, images, batch_size=1, workers=2)
    assert found.accuracies["network"].top1.value == 1
    assert found.num_pictures == 9
    assert list(found.unreadable) == [str(folder / "n03_things" / "broken.jpg")]
    assert found.to_dict()["unreadable"] == found.unreadable


def test_few_classes_have_no_top5(folder: Path) -> None:
    images = labelled_folder(folder, to_tensor)
    few = ImageDataset(images.samples[:2], to_tensor, ["people", "animals"])
    accuracy = evaluate({"network": Fixed(torch.eye(2))}, few).accuracies["network"]
    assert (accuracy.top1.value, accuracy.top5, accuracy.top5_change) == (1, None, None)


def test_each_network_sees_its_own_preprocessing(folder: Path) -> None:
    class Sees(nn.Module):
        """Scores a class for images of a size, and another for those of any other."""

        def __init__(self, size: int) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))
            self.size = size

        def forward(self, x: Tensor) -> Tensor:
            return torch.eye(6)[[int(x.shape[-1] == self.size)] * len(x)]

    def to_larger_tensor(image: Image.Image) -> Tensor:
        return pil_to_tensor(image.resize((48, 48))).float()

    models = {"small": Sees(32), "large": Sees(48), "none": Sees(0)}
    found = evaluate(
        models, labelled_folder(folder, to_tensor), transforms={"large": to_larger_tensor}
    )
    assert [accuracy.agreement for accuracy in found.accuracies.values()] == [1, 1, 0]


def test_mixed_precision_is_asked_for(folder: Path) -> None:
    seen = []

    class Product(Fixed):
        """Notes what its products come in."""

        def forward(self, x: Tensor) -> Tensor:
            scores = super().forward(x)
            seen.append((scores @ torch.eye(6)).dtype)
            return scores

    images = labelled_folder(folder, to_tensor)
    evaluate({"network": Product(torch.eye(6).repeat(2, 1))}, images, precision=torch.bfloat16)
    evaluate({"network": Product(torch.eye(6).repeat(2, 1))}, images)
    assert seen == [torch.bfloat16, torch.float32]


def test_networks_that_are_no_classifiers_of_the_data(folder: Path) -> None:
    images = labelled_folder(folder, to_tensor)
    with pytest.raises(DecomposeError, match="network: scores 7 classes, but there are 6"):
        evaluate({"network": Fixed(torch.zeros(9, 7))}, images)
    with pytest.raises(DecomposeError, match="network: gives scores that are not finite"):
        evaluate({"network": Fixed(torch.full((9, 6), float("nan")))}, images)
    with pytest.raises(DecomposeError, match=r"output of shape \(6, 2\)"):
        evaluate({"network": Fixed(torch.zeros(9, 6, 2))}, images)
    unnamed = ImageDataset(images.samples, to_tensor)
    with pytest.raises(DecomposeError, match="a label 5, but the models score 5 classes"):
        evaluate({"network": Fixed(torch.zeros(9, 5))}, unnamed)


def test_when_nothing_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.jpg").write_text("no image")
    with pytest.raises(DecomposeError, match=r"no image could be read.*a\.jpg: is no image"):
        evaluate({"network": Fixed(torch.zeros(1, 1))}, labelled_folder(tmp_path, to_tensor))


def test_an_interrupted_evaluation_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decompose.evaluation.predictions._SECONDS_BETWEEN", 0)
    images = labelled_folder(folder, to_tensor)
    scores = torch.rand(9, 6, generator=torch.Generator().manual_seed(0))
    whole = evaluate({"network": Fixed(scores)}, images, batch_size=1)
    record = tmp_path / "record.json"
    with pytest.raises(StopIteration):
        # It runs out of scores, as a killed process runs out of time.
        evaluate({"network": Fixed(scores[:5])}, images, batch_size=1, record=record)
    rest = Fixed(scores[5:])
    again = evaluate({"network": rest}, images, batch_size=1, record=record)
    assert next(rest.rows, None) is None
    assert again.accuracies == whole.accuracies
    forget(record)
    assert not [path for path in tmp_path.iterdir() if "outcomes" in path.name]


def test_some_of_imagenets_classes_are_known_by_their_synsets(tmp_path: Path) -> None:
    chosen = {"n01440764": 0, "n01491361": 3, "n13133613": 998}
    for name in chosen:
        (tmp_path / name).mkdir()
        photograph("coffee.png", 40).save(tmp_path / name / "a.jpg")
    images = labelled_folder(tmp_path, to_tensor)
    asked, right = torch.eye(1000)[:1], torch.eye(1000)[[*chosen.values()]]
    found = evaluate({"all": Fixed(torch.cat([asked, right]))}, images)
    assert (found.accuracies["all"].top1.value, found.num_classes) == (1, 1000)
    # A model of these three classes alone has them in the folders' order.
    asked, right = torch.eye(3)[:1], torch.eye(3)[[0, 1, 0]]
    found = evaluate({"three": Fixed(torch.cat([asked, right]))}, images)
    assert (found.accuracies["three"].top1.value, found.num_classes) == (pytest.approx(2 / 3), 3)
