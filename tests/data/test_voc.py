"""Images with their objects, in VOC's layout."""

import shutil
from pathlib import Path

import pytest
from torchvision.transforms.functional import pil_to_tensor

from decompose.data.voc import voc_dataset
from decompose.utils.errors import DecomposeError
from tests.data.voc_cases import NAMES, write_voc


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_voc(tmp_path / "VOC")


def test_images_come_in_their_own_sizes(folder: Path) -> None:
    scenes = voc_dataset(folder, pil_to_tensor)
    assert [Path(path).stem for path, _ in scenes.samples] == list(NAMES)
    for workers in (0, 2):
        first, second, third = scenes.batches(2, workers)
        assert [image.shape for image in first.by_transform[0]] == [(3, 512, 512), (3, 300, 451)]
        assert (second.indices, third.indices) == ([2, 3], [4])
    assert scenes.objects(1).names == ("cat",)
    assert scenes.classes() == sorted(scenes.classes())


def test_each_image_comes_in_every_preprocessing(folder: Path) -> None:
    scenes = voc_dataset(folder, pil_to_tensor)
    twice = scenes.with_transforms(pil_to_tensor, lambda image: pil_to_tensor(image.resize((8, 8))))
    (batch,) = twice.batches(2, indices=[0, 3])
    assert [len(view) for view in batch.by_transform] == [2, 2]
    assert batch.by_transform[1][0].shape == (3, 8, 8)


def test_what_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "JPEGImages" / "astronaut.jpg").unlink()
    (folder / "Annotations" / "chelsea.xml").write_text("<")
    scenes = voc_dataset(folder, pil_to_tensor)
    assert [Path(path).name for path in scenes.damaged] == ["chelsea.xml"]
    (batch,) = scenes.batches(8)
    assert [Path(path).name for path in batch.unreadable] == ["astronaut.jpg"]
    assert batch.indices == [1, 2, 3]
    (empty,) = scenes.batches(8, indices=[0])
    assert empty.by_transform == ((),)


def test_a_subset_is_the_same_for_a_seed(folder: Path) -> None:
    scenes = voc_dataset(folder, pil_to_tensor)
    some = scenes.subset(2, seed=1)
    assert some.samples == scenes.subset(2, seed=1).samples
    assert some.objects(1).names == scenes._objects[some.samples[1][0]].names
    with pytest.raises(DecomposeError, match="a subset of 9 images: there are 5"):
        scenes.subset(9)


def test_without_a_list_of_tests_that_of_validation_serves(folder: Path) -> None:
    lists = folder / "ImageSets" / "Main"
    (lists / "test.txt").rename(lists / "val.txt")
    (lists / "val.txt").write_text("chelsea\n\nchelsea\n")
    assert len(voc_dataset(folder, pil_to_tensor)) == 1


def test_names_have_spaces_and_lists_have_flags(folder: Path) -> None:
    for name in ("a cat", "cat 1"):
        shutil.copy(folder / "Annotations" / "chelsea.xml", folder / "Annotations" / f"{name}.xml")
    lines = "a cat\ncoffee -1\nbrick  0\nchelsea  1\ncat 1\n"
    (folder / "ImageSets" / "Main" / "test.txt").write_text(lines)
    names = [Path(path).stem for path, _ in voc_dataset(folder, pil_to_tensor).samples]
    assert names == ["a cat", "coffee", "brick", "chelsea", "cat 1"]


def test_other_layouts(folder: Path) -> None:
    with pytest.raises(DecomposeError, match=r"JPEGImages: is not laid out as VOC is.*test\.txt"):
        voc_dataset(folder / "JPEGImages", pil_to_tensor)
    shutil.rmtree(folder / "Annotations")
    with pytest.raises(DecomposeError, match="is not laid out as VOC is"):
        voc_dataset(folder, pil_to_tensor)
    (folder / "Annotations").mkdir()
    with pytest.raises(DecomposeError, match=r"no annotation could be read.*astronaut\.xml"):
        voc_dataset(folder, pil_to_tensor)
    (folder / "ImageSets" / "Main" / "test.txt").write_text("")
    with pytest.raises(DecomposeError, match="its list of images is empty"):
        voc_dataset(folder, pil_to_tensor)
