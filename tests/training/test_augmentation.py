"""Draws follow from seed, epoch and image, whoever decodes them."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms._presets import ImageClassification

from decompose.training.augmentation import AugmentedImages, TrainBatch, augmented, drawing
from decompose.utils.errors import DecomposeError
from tests.training.cases import DRAWN, image_dataset, make_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("draws") / "data", 3)


def drawn(draws: AugmentedImages, epoch: int, workers: int = 0) -> list[TrainBatch]:
    return list(draws.batches(epoch, [[0, 5, 2], [7, 1, 8]], workers))


def test_draws_are_the_same_whatever_the_workers_and_the_order(folder: Path) -> None:
    draws = AugmentedImages(image_dataset(folder).with_transforms(DRAWN), seed=1)
    here, there = drawn(draws, 0), drawn(draws, 0, workers=2)
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.images, other.images)
        assert one.labels.tolist() == other.labels.tolist()
    (late,) = draws.batches(0, [[7, 1, 8]], 0)
    assert torch.equal(late.images, here[1].images)
    assert here[0].labels.tolist() == [0, 1, 0]


def test_epochs_and_seeds_draw_anew_and_torchs_own_draws_go_on(folder: Path) -> None:
    seen = image_dataset(folder).with_transforms(DRAWN)
    state = torch.get_rng_state()
    first, second = drawn(AugmentedImages(seen, seed=1), 0), drawn(AugmentedImages(seen, seed=1), 1)
    other = drawn(AugmentedImages(seen, seed=2), 0)
    assert not torch.equal(first[0].images, second[0].images)
    assert not torch.equal(first[0].images, other[0].images)
    assert torch.equal(torch.get_rng_state(), state)


def test_grey_images_stay_grey() -> None:
    grey = ImageClassification(crop_size=8, resize_size=8, mean=(0.5,), std=(0.2,))
    assert augmented(grey)(Image.new("RGB", (9, 9), "red")).shape == (1, 8, 8)


def test_an_unreadable_image_is_stood_in_for_and_named(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "data", 2)
    broken = folder / "c1" / "0.png"
    broken.write_text("no image")
    draws = AugmentedImages(image_dataset(folder).with_transforms(DRAWN), seed=0)
    (batch,) = draws.batches(0, [[2, 0]], 0)
    assert batch.images.shape[0] == 2
    assert batch.labels.tolist() == [1, 0]
    assert batch.unreadable == {str(broken): "is no image"}


def test_data_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "data", 1)
    for path in folder.rglob("*.png"):
        path.write_text("no image")
    draws = AugmentedImages(image_dataset(folder).with_transforms(DRAWN), seed=0)
    with pytest.raises(DecomposeError, match="is no image; nor can the 2 images after it"):
        next(iter(draws.batches(0, [[0]], 0)))


def test_the_training_preprocessing_has_the_size_and_normalisation_of_the_other() -> None:
    grey = Image.new("RGB", (50, 40), (128, 64, 32))
    plain = ImageClassification(crop_size=24, resize_size=28)
    with drawing(0):
        image = augmented(plain)(grey)
    assert image.shape == (3, 24, 24)
    torch.testing.assert_close(image, plain(grey))
    with pytest.raises(DecomposeError, match="has no crop size"):
        augmented(DRAWN)
