"""Load photographs, digits and Fashion-MNIST from installed packages."""

from __future__ import annotations

import gzip
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

from decompose.data.decoding import read_image
from decompose.data.images import ImageDataset
from decompose.models.preprocessing import Transform
from decompose.utils.errors import DecomposeError
from decompose.utils.files import writing
from decompose.utils.optional_dependencies import required

# The natural photographs, colour and grey, that scikit-image ships.
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


FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Folder of Debian's package dataset-fashion-mnist."""


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
                images.append(transform(read_image(path)))
            names.append(Path(file).stem)
    return names, torch.stack(images)


def digits(size: int) -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 handwritten digits, scaled up to colour images.

    Args:
        size: height and width in pixels.

    Returns:
        ``(1797, 3, size, size)`` float32 in [0, 1], and the labels 0 to 9, ``(1797,)``.

    Raises:
        DecomposeError: scikit-learn is not installed.
    """
    datasets = required("sklearn.datasets", "scikit-learn", "demo")
    pixels, labels = datasets.load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16
    images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return images.expand(-1, 3, -1, -1), torch.from_numpy(labels)


def fashion_mnist(*, train: bool, packed: Path = FASHION_MNIST) -> tuple[Tensor, Tensor]:
    """Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747), kept in the user's cache.

    Args:
        train: the 60,000 images to train on, rather than the 10,000 to test on.
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


def fashion_mnist_images(transform: Transform, *, train: bool) -> ImageDataset:
    """Fashion-MNIST as labelled images in RGB, 28×28 pixels, held in memory.

    Args:
        transform: the preprocessing.
        train: as ``fashion_mnist`` takes it.

    Raises:
        DecomposeError: as ``fashion_mnist``.
    """
    images, labels = fashion_mnist(train=train)
    return images_in_memory(images, labels, transform, _FASHION_CLASSES)


def images_in_memory(
    images: Tensor, labels: Tensor, transform: Transform, classes: Sequence[str] = ()
) -> ImageDataset:
    """A dataset of labelled RGB images held in memory; their names are their indices.

    Args:
        images: ``(N, 1, H, W)`` or ``(N, 3, H, W)``, in [0, 1]; kept in 256 levels.
        labels: ``(N,)``, int64.
        transform: the preprocessing.
        classes: the classes' names by label.
    """
    levels = (255 * images.expand(-1, 3, -1, -1)).round().byte()
    samples = [(f"{index}", label) for index, label in enumerate(labels.tolist())]
    read = partial(_image_at, levels.permute(0, 2, 3, 1).contiguous().numpy())
    return ImageDataset(samples, transform, classes, read)


def _image_at(levels: np.ndarray, index: str) -> Image.Image:
    return Image.fromarray(levels[int(index)])
