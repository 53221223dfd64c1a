"""Folders of images, and the images inside packages."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from decompose.data.bundled import (
    FASHION_MNIST,
    digits,
    fashion_mnist,
    fashion_mnist_images,
    images_in_memory,
    photographs,
)
from decompose.data.folders import image_folder, labelled_folder, labelled_images
from decompose.utils.errors import DecomposeError
from tests.data.cases import to_tensor, write_class_folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path)


def test_class_folders_are_labels_in_the_order_of_their_names(folder: Path) -> None:
    dataset = labelled_folder(folder, to_tensor)
    assert list(dataset.classes) == ["cat", "dog"]
    (batch,) = dataset.batches(8)
    assert batch.images.shape == (3, 3, 8, 8)
    assert batch.labels.tolist() == [0, 0, 1]


def test_a_val_folder_is_entered(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "imagenet"
    root.mkdir()
    (root / "val").symlink_to(folder, target_is_directory=True)
    for entry in ("cat", "dog"):
        assert (root / "val" / entry).is_dir()
    assert "cat" in labelled_folder(root, to_tensor).classes


def test_of_several_splits_the_one_asked_for_is_entered(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("val", "b")):
        (tmp_path / "root" / split / name).mkdir(parents=True)
        Image.new("RGB", (9, 7)).save(tmp_path / "root" / split / name / "x.png")
    assert labelled_images(tmp_path / "root", to_tensor, "train").classes == ["a"]
    assert labelled_images(tmp_path / "root", to_tensor).classes == ["b"]


def test_folders_among_synsets_that_are_none_are_left_out(tmp_path: Path) -> None:
    for name in ("n01440764", "n01443537", "lost+found"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (9, 7)).save(tmp_path / name / "a.png")
    images = labelled_folder(tmp_path, to_tensor)
    assert list(images.classes) == ["n01440764", "n01443537"]
    assert [label for _, label in images.samples] == [0, 1]
    assert images.damaged == {str(tmp_path / "lost+found"): "is no synset"}


def test_an_empty_class_folder_keeps_its_label(folder: Path) -> None:
    (folder / "cow").mkdir()
    images = labelled_images(folder, to_tensor)
    assert list(images.classes) == ["cat", "cow", "dog"]
    assert [label for _, label in images.samples] == [0, 0, 2]


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    write_class_folders(tmp_path / "val")
    assert len(labelled_images(tmp_path, to_tensor)) == 3
    with pytest.raises(DecomposeError, match="holds val, but no train"):
        labelled_images(tmp_path, to_tensor, "train")


def test_a_class_may_be_called_train(folder: Path) -> None:
    (folder / "train").mkdir()
    Image.new("RGB", (9, 7)).save(folder / "train" / "a.png")
    assert list(labelled_images(folder, to_tensor).classes) == ["cat", "dog", "train"]


def test_torchvisions_imagenet_layout(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "imagenet"
    (root / "val").mkdir(parents=True)
    for index, wnid in enumerate(("n01440764", "n01443537")):
        (root / "val" / wnid).mkdir()
        Image.new("RGB", (9, 7), (index, 0, 0)).save(root / "val" / wnid / "a.JPEG")
    torch.save(({"n01440764": ("tench",), "n01443537": ("goldfish",)}, []), root / "meta.bin")
    images = labelled_folder(root, to_tensor)
    assert len(images) == 2
    assert list(images.classes) == ["n01440764", "n01443537"]
    (root / "meta.bin").write_bytes(b"")
    with pytest.raises(DecomposeError, match="no ImageNet folder"):
        labelled_folder(root, to_tensor)


def test_images_are_found_at_any_depth(folder: Path) -> None:
    assert len(image_folder(folder, to_tensor)) == 3
    assert len(image_folder(folder, to_tensor, most=2)) == 2


def test_folders_without_images(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "classes" / "cat").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("x")
    for read in (labelled_folder, image_folder):
        with pytest.raises(DecomposeError, match="missing: no such folder"):
            read(tmp_path / "missing", to_tensor)
    with pytest.raises(DecomposeError, match="holds no image"):
        image_folder(tmp_path, to_tensor)
    with pytest.raises(DecomposeError, match="holds no class folders"):
        labelled_folder(tmp_path / "empty", to_tensor)
    with pytest.raises(DecomposeError, match="class folders hold no image"):
        labelled_folder(tmp_path / "classes", to_tensor)


def test_the_photographs_are_twelve() -> None:
    names, images = photographs(to_tensor)
    assert len(names) == len(set(names)) == len(images) == 12
    assert {"astronaut", "chelsea", "china", "flower"} <= set(names)


def test_the_digits_are_scaled_up() -> None:
    images, labels = digits(16)
    assert images.shape == (1797, 3, 16, 16)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    assert sorted(set(labels.tolist())) == list(range(10))


def test_fashion_mnist_is_unpacked_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not FASHION_MNIST.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    images, labels = fashion_mnist(train=False)
    assert images.shape == (10_000, 1, 28, 28)
    assert (float(images.min()), float(images.max())) == (0, 1)
    assert labels.bincount().tolist() == [1000] * 10


def test_fashion_mnist_is_images_as_well() -> None:
    if not FASHION_MNIST.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    _, labels = fashion_mnist(train=False)
    (batch,) = fashion_mnist_images(to_tensor, train=False).batches(3, indices=[0, 7, 42])
    assert batch.labels.tolist() == labels[[0, 7, 42]].tolist()
    assert batch.images.shape[1] == 3


def test_images_in_memory_are_those_given() -> None:
    images, labels = torch.rand(3, 3, 8, 8), torch.tensor([2, 0, 1])
    dataset = images_in_memory(images, labels, to_tensor, ["a", "b", "c"])
    (batch,) = dataset.batches(4)
    assert batch.labels.tolist() == [2, 0, 1]
    torch.testing.assert_close(batch.images, 255 * images, atol=0.5 + 1e-4, rtol=0)


def test_links_are_followed_and_loops_ended(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "deep").mkdir()
    for name in ("x.png", "deep/y.pgm"):
        Image.new("L", (9, 7)).save(elsewhere / name)
    (folder / "cow").symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "deep" / "up").symlink_to(elsewhere, target_is_directory=True)
    (folder / "cat" / "up").symlink_to(folder, target_is_directory=True)
    shown = tmp_path_factory.mktemp("shown")
    (shown / "all").symlink_to(folder / "cow", target_is_directory=True)
    assert [Path(path).name for path, _ in image_folder(shown, to_tensor).samples] == [
        "y.pgm",
        "x.png",
    ]
    images = labelled_folder(folder, to_tensor)
    assert list(images.classes) == ["cat", "cow", "dog"]
    assert [label for _, label in images.samples] == [0, 0, 1, 1, 2]


def test_what_is_hidden_or_metadata_is_neither_class_nor_image(folder: Path) -> None:
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (folder / name).mkdir()
        Image.new("RGB", (9, 7)).save(folder / name / "a.png")
    (folder / "cat" / "._a.png").write_bytes(b"metadata")
    images = labelled_folder(folder, to_tensor)
    assert list(images.classes) == ["cat", "dog"]
    assert len(images) == len(image_folder(folder, to_tensor)) == 3
