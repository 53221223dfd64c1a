"""Batches that layers are fitted to: augmented inputs in folds, and inputs that only help."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from decompose.compression.reconstruction.input_augmentations import augmentations
from decompose.utils.batches import Example, InputBatches

NUM_FOLDS = 4


class FoldedBatches:
    """Batches in a fixed order, each of one fold and one shape.

    Args:
        inputs: with their augmentations; those of one input fall into one fold.
        aids: inputs that only help; they have no fold.
        size: inputs in a batch, at most.
        are_many: whether inputs are many, and augmented less.

    Attributes:
        size: inputs in a batch, at most.
        folds: of each batch; ``None`` of aids.
    """

    def __init__(
        self, inputs: InputBatches, aids: Iterable[Any], size: int, *, are_many: bool = False
    ) -> None:
        self._inputs, self._aids, self.size, self._are_many = inputs, aids, size, are_many
        self.folds: list[int | None] = []
        self._batch_of: list[int] = []
        lengths: list[int] = []
        last: dict[tuple[int | None, Any], int] = {}
        for fold, x, _ in self._one_by_one():
            key = fold, x.shape if isinstance(x, Tensor) else None
            if key[1] is None or key not in last or lengths[last[key]] == size:
                last[key] = len(lengths)
                lengths.append(0)
                self.folds.append(fold)
            lengths[last[key]] += 1
            self._batch_of.append(last[key])
        self._lengths = lengths

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.folds)

    def chosen(self, indices: Collection[int]) -> Iterator[tuple[int, Example]]:
        """Index and content of some of the batches."""
        waiting: defaultdict[int, list[Any]] = defaultdict(list)
        for batch, (_, x, augment) in zip(self._batch_of, self._one_by_one(), strict=True):
            if batch in indices:
                waiting[batch].append(augment(x))
                if len(waiting[batch]) == self._lengths[batch]:
                    parts = waiting.pop(batch)
                    yield batch, parts[0] if len(parts) == 1 else torch.cat(parts)

    def _one_by_one(self) -> Iterator[tuple[int | None, Any, Callable[[Any], Any]]]:
        """Fold, input and augmentation of each."""
        for index, x in enumerate(self._inputs, start=1):
            for augment in augmentations(x, are_many=self._are_many):
                yield index % NUM_FOLDS, x, augment
        for x in self._aids:
            yield None, x, lambda x: x
