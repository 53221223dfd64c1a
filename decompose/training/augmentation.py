"""Augment images for training: another crop and flip each epoch, the same in every run.

A draw is seeded by (seed, epoch, image), not by how many were drawn before it: runs repeat, and
resumed ones go on, whatever the number of decoding processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from decompose.data.images import GuardedLoader, ImageDataset
from decompose.models.preprocessing import Transform
from decompose.utils.errors import DecomposeError
from decompose.utils.random import draw_seed

_MOST_UNREADABLE = 100
"""Unreadable images in a row before the data counts as broken."""


@dataclass(frozen=True, eq=False)
class TrainBatch:
    """A batch of images to train on.

    Attributes:
        images: ``(batch, 3, H, W)``.
        labels: ``(batch,)`` int64; -1 where there is none.
        unreadable: images that others replace, by path, with the reason.
    """

    images: Tensor
    labels: Tensor
    unreadable: Mapping[str, str]

    def pin_memory(self) -> TrainBatch:
        """Copy to pinned memory, for ``DataLoader``."""
        return TrainBatch(self.images.pin_memory(), self.labels.pin_memory(), self.unreadable)


def augmented(preprocessing: Transform) -> Transform:
    """Add random crops and flips to a preprocessing, at the same input size and normalisation.

    Cuts are RandomResizedCrop's (Szegedy et al. 2015, arXiv 1409.4842), as torchvision trains.

    Args:
        preprocessing: torchvision's of a classifier, which has a size, mean and deviation.

    Raises:
        DecomposeError: it has none.
    """
    from torchvision.transforms import v2

    found: Any = [getattr(preprocessing, name, None) for name in ("crop_size", "mean", "std")]
    if None in found:
        raise DecomposeError(
            "the preprocessing has no crop size, mean and deviation; give the one to "
            "train in (augment=)"
        )
    size, mean, std = found
    return v2.Compose(
        [
            v2.RandomResizedCrop((size[0], size[-1]), antialias=True),
            v2.RandomHorizontalFlip(),
            *([v2.Grayscale()] if len(mean) == 1 else []),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )


@contextmanager
def drawing(*parts: int) -> Iterator[None]:
    """Seed torch's random numbers inside this context, and restore them after it."""
    with torch.random.fork_rng(devices=[]):
        # Not those of GPUs, too, as torch.manual_seed does: that takes longer than a small image.
        torch.default_generator.manual_seed(draw_seed(*parts))
        yield


class AugmentedImages(Dataset[tuple[Tensor, int, Mapping[str, str]]]):
    """A dataset of augmented images, indexed by (epoch, index).

    One that cannot be read is replaced by the next that can, so that batches keep their size and
    processes their step.

    Args:
        images: labelled or not, in the preprocessing to train in.
        seed: of the draws.
    """

    def __init__(self, images: ImageDataset, seed: int) -> None:
        self.images = images
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, Mapping[str, str]]:
        epoch, index = key
        unreadable: dict[str, str] = {}
        for turn in range(min(len(self.images), _MOST_UNREADABLE)):
            other = (index + turn) % len(self.images)
            path, label = self.images.samples[other]
            with drawing(self.seed, epoch, index):
                views, _ = self.images[other]
            if not isinstance(views, str):
                return views[0], label, unreadable
            unreadable[path] = views
        path, reason = next(iter(unreadable.items()))
        raise DecomposeError(
            f"{path}: {reason}; nor can the {len(unreadable) - 1} images after it be read"
        )

    def batches(
        self, epoch: int, indices: Sequence[Sequence[int]], workers: int
    ) -> DataLoader[Any]:
        """Batches of the images at the given indices, as ``TrainBatch``.

        Args:
            epoch: that they are drawn for.
            indices: of each batch's images.
            workers: processes that decode.
        """
        return GuardedLoader(
            self,
            batch_sampler=[[(epoch, index) for index in batch] for batch in indices],
            num_workers=workers,
            collate_fn=_collate,
            # Its own draws, of which no image depends, leave torch's generator alone.
            generator=torch.Generator(),
            pin_memory=torch.cuda.is_available(),
        )


def _collate(drawn: Sequence[tuple[Tensor, int, Mapping[str, str]]]) -> TrainBatch:
    images, labels, unreadable = zip(*drawn, strict=True)
    return TrainBatch(
        torch.stack(images),
        torch.tensor(labels, dtype=torch.int64),
        {path: why for part in unreadable for path, why in part.items()},
    )
