"""Pictures: folders of them, ImageNet, shards, and those that come inside packages."""

from __future__ import annotations

import gzip
import pickle
import re
from collections.abc import Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from urllib.error import URLError

import numpy as np
import platformdirs
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from decompose.data.images import EXTENSIONS, Pictures, read_picture
from decompose.data.webdataset import is_shards, labelled_shards
from decompose.models.architectures import Transform
from decompose.utils.errors import DecomposeError
from decompose.utils.files import writing
from decompose.utils.optional_dependencies import required

# Colour and grey pictures of things as they look, out of what scikit-image ships.
_SCIKIT_IMAGE = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "motorcycle_left.png",
    "rocket.jpg",
)
_SCIKIT_LEARN = ("china.jpg", "flower.jpg")

_SPLITS = ("train", "val")
_SYNSET = re.compile(r"n\d{8}")

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""

_FASHION_CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def picture_folder(folder: str | Path, transform: Transform, most: int | None = None) -> Pictures:
    """Pictures below a folder, without labels, in the order of their paths.

    Args:
        folder: where they lie, at any depth.
        transform: the preprocessing.
        most: the first so many; all by default.

    Raises:
        DecomposeError: there is no such folder, or no picture in it.
    """
    folder = _existing_folder(folder)
    paths = _below(folder)
    if not paths:
        raise DecomposeError(f"{folder}: holds no picture ({', '.join(EXTENSIONS)})")
    return Pictures([(str(path), -1) for path in paths[:most]], transform)


def labelled(data: str | Path, transform: Transform, split: str = "val") -> Pictures:
    """Labelled pictures in tar shards (``shards``) or folders (``labelled_folder``).

    Args:
        data: where they lie.
        transform: the preprocessing.
        split: of data that has several, ``val`` or ``train``; shards have none.

    Raises:
        DecomposeError: there are none.
    """
    if is_shards(str(data)):
        return labelled_shards(str(data), transform)
    return labelled_folder(data, transform, split)


def labelled_folder(folder: str | Path, transform: Transform, split: str = "val") -> Pictures:
    """Pictures in class folders, or ImageNet as torchvision lays it out.

    Three layouts: ``folder/CLASS/*.jpg`` with labels in the order of the folders' names (for
    ImageNet's synset folders that is its label order; among them folders that are no synsets are left
    out, and said to be damaged); the same under ``folder/val``; and torchvision's, with ``meta.bin`` or
    the devkit beside ``val``.

    Raises:
        DecomposeError: there is no such folder, or no picture in it.
    """
    folder = _existing_folder(folder)
    if (folder / "meta.bin").is_file() or (folder / "ILSVRC2012_devkit_t12.tar.gz").is_file():
        return _imagenet(folder, transform, split)
    if (folder / split).is_dir():
        folder = folder / split
    elif other := next((name for name in _SPLITS if _class_folders(folder / name)), None):
        # With folders inside, it is no class of that name.
        raise DecomposeError(f"{folder}: holds {other}, but no {split}")
    names = _class_folders(folder)
    if not names:
        raise DecomposeError(
            f"{folder}: holds no class folders; it should hold CLASS/PICTURE files"
        )
    synsets = [name for name in names if _SYNSET.fullmatch(name)]
    classes = synsets if 2 * len(synsets) > len(names) else names
    paths = [(path, label) for label, name in enumerate(classes) for path in _below(folder / name)]
    if not paths:
        raise DecomposeError(f"{folder}: its class folders hold no picture")
    strays = {str(folder / name): "is no synset" for name in names if name not in classes}
    samples = [(str(path), label) for path, label in paths]
    return Pictures(samples, transform, classes, damaged=strays)


def _imagenet(folder: Path, transform: Transform, split: str) -> Pictures:
    from torchvision.datasets import ImageNet

    try:
        dataset = ImageNet(str(folder), split=split)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        cause = str(error) or "its meta.bin is damaged"
        raise DecomposeError(f"{folder}: is no ImageNet folder of torchvision: {cause}") from None
    return Pictures(dataset.samples, transform, dataset.wnids)


def photographs(transform: Transform) -> tuple[list[str], Tensor]:
    """The photographs that scikit-image (ten) and scikit-learn (two) ship.

    Returns:
        Their names, and ``(12, 3, H, W)``.

    Raises:
        DecomposeError: a package is not installed.
    """
    names, images = [], []
    for package, distribution, files in (
        ("skimage.data", "scikit-image", _SCIKIT_IMAGE),
        ("sklearn.datasets.images", "scikit-learn", _SCIKIT_LEARN),
    ):
        folder = resources.files(required(package, distribution, "demo"))
        for file in files:
            with resources.as_file(folder / file) as path:
                images.append(transform(read_picture(path)))
            names.append(Path(file).stem)
    return names, torch.stack(images)


def digits(size: int) -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 handwritten digits, scaled up to colour pictures.

    Args:
        size: height and width in pixels.

    Returns:
        ``(1797, 3, size, size)`` float32 in [0, 1], and the labels 0 to 9, ``(1797,)``.

    Raises:
        DecomposeError: scikit-learn is not installed.
    """
    datasets = required("sklearn.datasets", "scikit-learn", "demo")
    pictures, labels = datasets.load_digits(return_X_y=True)
    images = torch.from_numpy(pictures).float().view(-1, 1, 8, 8) / 16
    images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return images.expand(-1, 3, -1, -1), torch.from_numpy(labels)


def fashion_mnist(*, train: bool, packed: Path = FASHION_MNIST) -> tuple[Tensor, Tensor]:
    """Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747), kept in the user's cache.

    Args:
        train: the 60,000 pictures to train on, rather than the 10,000 to test on.
        packed: a folder with its four ``.gz`` files; they are downloaded where it is not there.

    Returns:
        ``(N, 1, 28, 28)`` float32 in [0, 1], and the labels 0 to 9, ``(N,)``.

    Raises:
        DecomposeError: it is not there and cannot be downloaded.
    """
    from torchvision.datasets import FashionMNIST

    root = Path(platformdirs.user_cache_dir("decompose")) / "datasets"
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for source in packed.glob("*-ubyte.gz"):
        target = raw / source.stem
        if not target.exists():
            with gzip.open(source) as opened, writing(target) as temporary:
                temporary.write_bytes(opened.read())
    try:
        dataset = FashionMNIST(str(root), train=train, download=True)
    except (URLError, OSError, RuntimeError) as error:
        raise DecomposeError(
            f"Fashion-MNIST cannot be downloaded ({error}); install Debian's package "
            "dataset-fashion-mnist"
        ) from None
    return dataset.data.unsqueeze(1).float() / 255, dataset.targets


def fashion_mnist_pictures(transform: Transform, *, train: bool) -> Pictures:
    """Fashion-MNIST as labelled pictures in RGB, 28×28 pixels, held in memory.

    Args:
        transform: the preprocessing.
        train: as ``fashion_mnist`` takes it.

    Raises:
        DecomposeError: as ``fashion_mnist``.
    """
    images, labels = fashion_mnist(train=train)
    return pictures_in_memory(images, labels, transform, _FASHION_CLASSES)


def pictures_in_memory(
    images: Tensor, labels: Tensor, transform: Transform, classes: Sequence[str] = ()
) -> Pictures:
    """Labelled pictures in RGB that no file holds; their names are their numbers.

    Args:
        images: ``(N, 1, H, W)`` or ``(N, 3, H, W)``, in [0, 1]; kept in 256 levels.
        labels: ``(N,)``, int64.
        transform: the preprocessing.
        classes: the classes' names by label.
    """
    levels = (255 * images.expand(-1, 3, -1, -1)).round().byte()
    samples = [(f"{index}", label) for index, label in enumerate(labels.tolist())]
    read = partial(_picture_at, levels.permute(0, 2, 3, 1).contiguous().numpy())
    return Pictures(samples, transform, classes, read)


def _picture_at(levels: np.ndarray, index: str) -> Image.Image:
    return Image.fromarray(levels[int(index)])


def _below(folder: Path) -> list[Path]:
    """Picture files at any depth, in the order of their paths."""
    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file()
    )


def _class_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder; none where it is not there."""
    return (
        sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    )


def _existing_folder(folder: str | Path) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise DecomposeError(f"{folder}: no such folder")
    return folder
