"""Measure images a second, and the share of the time spent waiting for them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from decompose.data.images import ImageBatch
from decompose.data.voc import DetectionBatch

Some = TypeVar("Some", ImageBatch, DetectionBatch)


@dataclass(frozen=True)
class Throughput:
    """Images a second, and the share of the time spent loading.

    Attributes:
        pictures_per_s: decoded and put through every model, by all processes together.
        ready_per_s: the models' own rate, on tensors that lie ready.
        loading: share of the time that the models waited for images.
    """

    pictures_per_s: float
    ready_per_s: float
    loading: float

    @classmethod
    def together(cls, parts: Sequence[Throughput]) -> Throughput:
        """Add up the throughput of parallel processes."""
        return cls(
            sum(part.pictures_per_s for part in parts),
            sum(part.ready_per_s for part in parts),
            sum(part.loading for part in parts) / len(parts),
        )

    def __str__(self) -> str:
        return (
            f"{self.pictures_per_s:,.1f} images/s; on tensors that lie ready "
            f"{self.ready_per_s:,.1f}; {self.loading:.1%} of the time went to loading"
        )


@dataclass
class Clock:
    """Splits the time of a pass into waiting for images and running models."""

    _started: float = field(default_factory=time.monotonic)
    _waited_s: float = 0.0
    _num_images: int = 0

    def waiting(self, batches: Iterable[Some]) -> Iterator[Some]:
        """Iterate over batches and count the time until each as waiting."""
        iterator = iter(batches)
        while True:
            asked = time.monotonic()
            batch = next(iterator, None)
            self._waited_s += time.monotonic() - asked
            if batch is None:
                return
            self._num_images += len(batch.indices)
            yield batch

    def read(self) -> Throughput | None:
        """The throughput so far; ``None`` where no image came."""
        if not self._num_images:
            return None
        total_s = max(time.monotonic() - self._started, 1e-9)
        running_s = max(total_s - self._waited_s, 1e-9)
        return Throughput(
            self._num_images / total_s, self._num_images / running_s, self._waited_s / total_s
        )
