"""Images in order, in several preprocessings, and choices of them."""

import multiprocessing
import os
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from decompose.data.decoding import read_image
from decompose.data.folders import labelled_folder
from decompose.data.images import balanced_choice, end_without_parent
from decompose.utils.errors import DecomposeError
from tests.data.cases import to_tensor, write_class_folders


def to_larger_tensor(image: Image.Image) -> Tensor:
    """Preprocess otherwise."""
    return pil_to_tensor(image.resize((16, 16))).float()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path)


def test_an_unreadable_image_is_named_and_left_out(folder: Path) -> None:
    (folder / "dog" / "broken.jpg").write_text("no image")
    whole = (folder / "cat" / "a.png").read_bytes()
    (folder / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    for workers in (0, 2):
        (batch,) = labelled_folder(folder, to_tensor).batches(8, workers)
        assert len(batch.images) == len(batch.labels) == 3
        assert {Path(path).name for path in batch.unreadable} == {"broken.jpg", "cut.png"}
        assert batch.unreadable[str(folder / "dog" / "broken.jpg")] == "is no image"


def test_images_are_read_as_rgb(folder: Path) -> None:
    assert read_image(folder / "cat" / "a.png").mode == "RGB"
    with pytest.raises(DecomposeError, match="No such file"):
        read_image(folder / "missing.png")


def test_a_image_comes_in_every_preprocessing(folder: Path) -> None:
    seen = labelled_folder(folder, to_tensor).with_transforms(to_tensor, to_larger_tensor)
    (batch,) = seen.batches(8)
    assert [view.shape for view in batch.by_transform] == [(3, 3, 8, 8), (3, 3, 16, 16)]
    assert torch.equal(batch.images, batch.by_transform[0])


def test_a_part_of_the_images_keeps_their_places(folder: Path) -> None:
    (batch,) = labelled_folder(folder, to_tensor).batches(8, indices=[0, 2])
    assert batch.indices.tolist() == [0, 2]
    assert batch.labels.tolist() == [0, 1]


def test_a_subset_is_the_same_for_a_seed(folder: Path) -> None:
    images = labelled_folder(folder, to_tensor)
    assert images.subset(2, seed=3).samples == images.subset(2, seed=3).samples
    assert Counter(label for _, label in images.subset(2).samples) == {0: 1, 1: 1}
    with pytest.raises(DecomposeError, match="a subset of 4 images: there are 3"):
        images.subset(4)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.data(), st.integers(0, 2**32 - 1))
def test_a_choice_takes_of_all_classes_alike(
    labels: list[int], data: st.DataObject, seed: int
) -> None:
    num = data.draw(st.integers(1, len(labels)))
    chosen = balanced_choice(labels, num, seed)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == num
    there, taken = Counter(labels), Counter(labels[place] for place in chosen)
    most = max(taken.values())
    assert all(taken[label] >= min(there[label], most - 1) for label in there)


def test_a_share_is_held_out_of_all_classes_alike(folder: Path) -> None:
    images = labelled_folder(folder, pil_to_tensor)
    most, held = images.parted(0.5, seed=1)
    assert len(most) + len(held) == len(images)
    assert {*most.samples} | {*held.samples} == {*images.samples}
    counts = Counter(label for _, label in held.samples)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert images.parted(0.5, seed=1)[1].samples == held.samples
    assert [len(part) for part in images.parted(0.001)] == [len(images) - 1, 1]
    with pytest.raises(DecomposeError, match="a single image leaves none"):
        held.subset(1).parted(0.5)


class Killer:
    """A preprocessing in which a process dies."""

    def __call__(self, image: Image.Image) -> Tensor:
        """Never returns."""
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def failing(image: Image.Image) -> Tensor:
    """Preprocess nothing."""
    raise ZeroDivisionError("of\nheight 0")


def test_a_killed_process_is_one_line(folder: Path) -> None:
    with pytest.raises(DecomposeError, match="a process that decodes images was killed"):
        list(labelled_folder(folder, Killer()).batches(8, workers=1))


def worker(ready: int, alive: int) -> None:
    """A worker whose parent ends before it watches."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    os.write(ready, b"1")
    parent.join()
    end_without_parent(0)
    os.write(alive, b"1")


def test_a_worker_ends_whose_parent_was_killed_while_it_began() -> None:
    context = multiprocessing.get_context("fork")
    started, ready = os.pipe()
    ended, alive = os.pipe()

    def parent() -> None:
        child = context.Process(target=worker, args=(ready, alive))
        child.start()
        child.join()

    process = context.Process(target=parent)
    process.start()
    os.close(alive)
    assert os.read(started, 1) == b"1"
    process.kill()
    process.join()
    assert os.read(ended, 1) == b""
    os.close(ended)
    os.close(started)
    os.close(ready)


def test_what_cannot_be_preprocessed_is_unreadable(folder: Path) -> None:
    (batch,) = labelled_folder(folder, failing).batches(8)
    assert set(batch.unreadable.values()) == {"cannot be preprocessed: of"}
