"""Order the images of every step as a function of the seed, without state.

Every epoch goes through a permutation of its own. A step takes the next global batch of it, and each
process its share of that, in micro-batches. So any number of processes sees the same images in the
same step, and a resumed run knows from (epoch, step) alone which ones come next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from decompose.utils.errors import DecomposeError
from decompose.utils.random import draw_seed


@dataclass(frozen=True)
class BatchOrder:
    """The images of every step.

    Attributes:
        num_images: to train on.
        batch_size: images a step, of all processes together; what is left of an epoch is dropped.
        seed: of the permutations.

    Raises:
        DecomposeError: there are fewer images than one batch takes.
    """

    num_images: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_images < self.batch_size:
            raise DecomposeError(
                f"a batch takes {self.batch_size} images, and there are {self.num_images} to "
                "train on; give a smaller --batch-size"
            )

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.num_images // self.batch_size

    def batch(self, epoch: int, step: int) -> list[int]:
        """Indices of the images of one step."""
        start = step * self.batch_size
        return self._permutation(epoch)[start : start + self.batch_size]

    def share(
        self, epoch: int, first_step: int, process: int, num_processes: int, num_parts: int
    ) -> Iterator[list[int]]:
        """One process's images of an epoch from a step on: ``num_parts`` micro-batches a step.

        Args:
            epoch: from 0.
            first_step: of those still to be done, from 0.
            process: its number, from 0.
            num_processes: that share each batch.
            num_parts: micro-batches that a process splits its share into.

        Raises:
            DecomposeError: a batch cannot be split so.
        """
        size = self.part_size(num_processes, num_parts)
        permutation = self._permutation(epoch)
        for step in range(first_step, self.steps):
            for part in range(num_parts):
                start = step * self.batch_size + (process * num_parts + part) * size
                yield permutation[start : start + size]

    def part_size(self, num_processes: int, num_parts: int) -> int:
        """Images of a micro-batch, as ``share`` gives them.

        Raises:
            DecomposeError: a batch cannot be split so.
        """
        size, rest = divmod(self.batch_size, num_processes * num_parts)
        if rest:
            raise DecomposeError(
                f"a batch of {self.batch_size} images cannot be split into {num_processes} processes "
                f"times {num_parts} parts"
            )
        return size

    def _permutation(self, epoch: int) -> list[int]:
        rng = np.random.default_rng(draw_seed(self.seed, epoch))
        return rng.permutation(self.num_images).tolist()
