"""Datasets of labelled images, decoded by worker processes, in one or more preprocessings."""

from __future__ import annotations

import copy
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from decompose.data.decoding import read_image
from decompose.models.preprocessing import Transform
from decompose.utils.errors import DecomposeError, first_line, without_name

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageBatch:
    """A batch of images.

    Attributes:
        by_transform: the images that could be read, ``(batch, 3, H, W)``, once for each preprocessing.
        labels: their classes, ``(batch,)``, int64; -1 where there is none.
        indices: their indices in the dataset, ``(batch,)``, int64.
        unreadable: the others, by path, with the reason.
    """

    by_transform: tuple[Tensor, ...]
    labels: Tensor
    indices: Tensor
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def images(self) -> Tensor:
        """The images in the first preprocessing."""
        return self.by_transform[0]


Sample = tuple[Sequence[Tensor] | str, int]
"""An image in every preprocessing, or why it cannot be read; and its index."""


class ImageDataset(Dataset[Sample]):
    """A dataset of labelled images.

    Args:
        samples: paths and labels.
        transform: the preprocessing.
        classes: the classes' names by label; empty where they are unknown.
        read: opens the image of a path; raises ``DecomposeError`` where it cannot.
        damaged: files that are left out of the samples, by path, with the reason.
    """

    def __init__(
        self,
        samples: Sequence[tuple[str, int]],
        transform: Transform,
        classes: Sequence[str] = (),
        read: Callable[[str], Image.Image] | None = None,
        damaged: Mapping[str, str] | None = None,
    ) -> None:
        self.samples = samples
        self.transforms: tuple[Transform, ...] = (transform,)
        self.classes = classes
        self.damaged: Mapping[str, str] = damaged or {}
        self._read = read or read_image

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """The image in every preprocessing, or why it cannot be read; and its index."""
        path, _ = self.samples[index]
        try:
            image = self._read(path)
        except DecomposeError as error:
            return without_name(error, path), index
        try:
            return [transform(image) for transform in self.transforms], index
        # A preprocessing may be anybody's, and meets images of any size.
        except Exception as error:  # noqa: BLE001
            return f"cannot be preprocessed: {first_line(error)}", index

    def with_transforms(self, *transforms: Transform) -> ImageDataset:
        """The same images in other preprocessings, each decoded once for all of them."""
        seen = copy.copy(self)
        seen.transforms = transforms
        return seen

    def subset(self, num: int, seed: int = 0) -> ImageDataset:
        """A random subset with as equal numbers of each class as possible.

        Args:
            num: number of images.
            seed: seed of the draw.

        Raises:
            DecomposeError: there are fewer.
        """
        if not 0 < num <= len(self):
            raise DecomposeError(f"a subset of {num} images: there are {len(self)}")
        return self.chosen(balanced_choice([label for _, label in self.samples], num, seed))

    def chosen(self, indices: Iterable[int]) -> ImageDataset:
        """The images at some indices, in their order."""
        some = copy.copy(self)
        some.samples = [self.samples[index] for index in indices]
        return some

    def parted(self, share: float, seed: int = 0) -> tuple[ImageDataset, ImageDataset]:
        """Split off a random share with as equal numbers of each class as possible.

        Args:
            share: to hold out, in (0, 1).
            seed: seed of the draw.

        Raises:
            DecomposeError: there are fewer than two.
        """
        if len(self) < 2:
            raise DecomposeError("a single image leaves none to hold out")
        num = min(max(1, round(share * len(self))), len(self) - 1)
        held = balanced_choice([label for _, label in self.samples], num, seed)
        return self.chosen(sorted({*range(len(self))} - {*held})), self.chosen(held)

    def batches(
        self,
        batch_size: int,
        workers: int = 0,
        indices: Sequence[int] | None = None,
        collate: Callable[[Sequence[Sample]], Any] | None = None,
    ) -> DataLoader[Any]:
        """Iterate over the images in batches.

        Args:
            batch_size: images at a time.
            workers: processes that decode.
            indices: indices of the images wanted; all by default.
            collate: makes a batch of samples; an ``ImageBatch`` by default.
        """
        return GuardedLoader(
            self,
            batch_size=batch_size,
            sampler=range(len(self)) if indices is None else indices,
            num_workers=workers,
            collate_fn=collate or self._collate,
        )

    def sorted_out(
        self, given: Sequence[Sample]
    ) -> tuple[tuple[tuple[Tensor, ...], ...], list[int], dict[str, str]]:
        """The readable samples by preprocessing, their indices, and reasons for the others by path."""
        read = [(views, index) for views, index in given if not isinstance(views, str)]
        by_transform = tuple(zip(*(views for views, _ in read), strict=True))
        damaged = {self.samples[index][0]: why for why, index in given if isinstance(why, str)}
        return by_transform or ((),) * len(self.transforms), [index for _, index in read], damaged

    def _collate(self, given: Sequence[Sample]) -> ImageBatch:
        by_transform, indices, damaged = self.sorted_out(given)
        return ImageBatch(
            tuple(torch.stack(views) if views else torch.empty(0) for views in by_transform),
            torch.tensor([self.samples[index][1] for index in indices], dtype=torch.int64),
            torch.tensor(indices, dtype=torch.int64),
            damaged,
        )


class GuardedLoader(DataLoader[Any]):
    """A ``DataLoader`` that reports a killed worker in one line, and whose workers end with it.

    Args:
        dataset: whose samples to load.
        **options: as ``DataLoader`` takes them.
    """

    def __init__(self, dataset: Dataset[Any], **options: Any) -> None:
        super().__init__(dataset, worker_init_fn=end_without_parent, **options)

    def __iter__(self) -> Any:
        """The batches.

        Raises:
            DecomposeError: a process ended before its work was done.
        """
        batches = super().__iter__()
        try:
            yield from batches
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DecomposeError(
                "a process that decodes images was killed, maybe for want of memory; take fewer "
                "(--workers), or 0"
            ) from None


def end_without_parent(_: int) -> None:
    """End a worker whose parent was killed while the worker began; it would wait for ever.

    PyTorch's own watch begins later, and takes whoever is the parent by then for the right one.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)


def balanced_choice(labels: Sequence[int], num: int, seed: int) -> list[int]:
    """Indices of ``num`` labels, in order, with equal numbers of each class.

    Where a class has too few, the others give more; what does not go evenly falls to classes by lot.
    """
    rng = np.random.default_rng(seed)
    of_class = np.asarray(labels)
    # Each image's turn within its class; all first turns come before all second ones.
    turns = np.empty(len(of_class))
    for label in np.unique(of_class):
        (members,) = np.nonzero(of_class == label)
        turns[members] = rng.permutation(len(members))
    order = np.lexsort((rng.random(len(of_class)), turns))
    return sorted(order[:num].tolist())


def default_workers() -> int:
    """Default number of decoding processes: one a core, eight at most."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, 8)
