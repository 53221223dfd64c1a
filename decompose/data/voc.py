"""Datasets for detectors: images with their objects, in VOC's layout.

::

    VOC2007/JPEGImages/000001.jpg
    VOC2007/Annotations/000001.xml
    VOC2007/ImageSets/Main/test.txt        names of images, one a line
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from decompose.data.images import EXTENSIONS, ImageDataset, Sample
from decompose.data.voc_annotations import GroundTruth, read_objects
from decompose.models.preprocessing import Transform
from decompose.utils.errors import DecomposeError, reason, without_name
from decompose.utils.optional_dependencies import required

_SPLITS = ("test", "val")
"""Lists of images to evaluate on, the preferred one first."""


@dataclass(frozen=True)
class DetectionBatch:
    """A batch of images, each of its own size.

    Attributes:
        by_transform: those that could be read, ``(3, H, W)`` each, once for each preprocessing.
        indices: their indices in the dataset.
        unreadable: the others, by path, with the reason.
    """

    by_transform: tuple[Sequence[Tensor], ...]
    indices: Sequence[int]
    unreadable: Mapping[str, str]


class DetectionDataset:
    """A dataset of images with their objects.

    Args:
        images: unlabelled.
        objects: of each image, by path.
    """

    def __init__(self, images: ImageDataset, objects: Mapping[str, GroundTruth]) -> None:
        self._images = images
        self._objects = objects

    def __len__(self) -> int:
        return len(self._images)

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """The preprocessings."""
        return self._images.transforms

    @property
    def damaged(self) -> Mapping[str, str]:
        """Files that are left out, by path, with the reason."""
        return self._images.damaged

    @property
    def samples(self) -> list[tuple[str, list[Any]]]:
        """Every image's path, and its objects' names, boxes and difficulties."""
        return [(path, _as_list(self._objects[path])) for path, _ in self._images.samples]

    def objects(self, index: int) -> GroundTruth:
        """The objects of the image at an index."""
        return self._objects[self._images.samples[index][0]]

    def classes(self) -> list[str]:
        """Names of all objects' classes, sorted."""
        return sorted({n for path, _ in self._images.samples for n in self._objects[path].names})

    def with_transforms(self, *transforms: Transform) -> DetectionDataset:
        """The same images in other preprocessings, each decoded once for all of them."""
        seen = copy.copy(self)
        seen._images = self._images.with_transforms(*transforms)
        return seen

    def subset(self, num: int, seed: int = 0) -> DetectionDataset:
        """A random subset; raises ``DecomposeError`` where there are fewer images."""
        some = copy.copy(self)
        some._images = self._images.subset(num, seed)
        return some

    def batches(
        self, batch_size: int, workers: int = 0, indices: Sequence[int] | None = None
    ) -> DataLoader[Any]:
        """Iterate over the images in batches of ``DetectionBatch``.

        Args:
            batch_size: images at a time.
            workers: processes that decode.
            indices: indices of the images wanted; all by default.
        """
        return self._images.batches(batch_size, workers, indices, self._collate)

    def _collate(self, given: Sequence[Sample]) -> DetectionBatch:
        return DetectionBatch(*self._images.sorted_out(given))


def voc_dataset(folder: str | Path, transform: Transform) -> DetectionDataset:
    """Load a dataset in VOC's layout: the images of its list ``test``, or ``val`` without one.

    Annotations that cannot be read are left out, with their images, and said to be damaged.

    Args:
        folder: ``VOC2007``, or another of its layout.
        transform: the preprocessing.

    Raises:
        DecomposeError: there is no such folder, it is laid out otherwise, no annotation in it can
            be read, or defusedxml is not installed.
    """
    folder = Path(folder)
    required("defusedxml", "defusedxml", "detection")
    objects: dict[str, GroundTruth] = {}
    damaged: dict[str, str] = {}
    for name in _names(folder):
        annotation = folder / "Annotations" / f"{name}.xml"
        try:
            objects[str(_image_file(folder / "JPEGImages", name))] = read_objects(annotation)
        except DecomposeError as error:
            damaged[str(annotation)] = without_name(error, annotation)
    if not objects:
        path, reason = next(iter(damaged.items()), (folder, "its list of images is empty"))
        raise DecomposeError(f"no annotation could be read; the first is {path}: {reason}")
    return DetectionDataset(
        ImageDataset([(path, -1) for path in objects], transform, damaged=damaged), objects
    )


def _names(folder: Path) -> Iterable[str]:
    """Names of the images to evaluate on."""
    lists = [folder / "ImageSets" / "Main" / f"{split}.txt" for split in _SPLITS]
    named = next((path for path in lists if path.is_file()), None)
    if named is None or not (folder / "Annotations").is_dir():
        raise DecomposeError(
            f"{folder}: is not laid out as VOC is: JPEGImages/*.jpg, Annotations/*.xml and "
            f"ImageSets/Main/{_SPLITS[0]}.txt or {_SPLITS[1]}.txt"
        )
    try:
        lines = named.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DecomposeError(f"{named}: cannot be read: {reason(error)}") from None
    listed = (line.strip() for line in lines if line.strip())
    return dict.fromkeys(_unflagged(line, folder / "Annotations") for line in listed)


def _unflagged(line: str, annotations: Path) -> str:
    """The name in a line, without the flag that lists of one class put behind it."""
    known = (annotations / f"{line}.xml").is_file()
    return line if known else re.sub(r"\s+(-1|0|1)$", "", line)


def _image_file(folder: Path, name: str) -> Path:
    """The file of an image, with VOC's suffix by default."""
    paths = [folder / f"{name}{ending}" for ending in EXTENSIONS]
    return next((path for path in paths if path.is_file()), folder / f"{name}.jpg")


def _as_list(objects: GroundTruth) -> list[Any]:
    return [objects.names, objects.boxes.tolist(), objects.difficult.tolist()]
