"""Inputs of a network, out of what people hold: a tensor, a list of batches, a DataLoader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from decompose.errors import DecomposeError

Images = Tensor | Iterable[Any]
"""Inputs ``(batch, ...)``, or an iterable of such, or of tuples that begin with such."""


class Inputs:
    """Inputs that can be gone through as often as need be.

    Args:
        images: inputs; what can be gone through once only is kept in memory.
        network: whose device and floating dtype they get.
    """

    def __init__(self, images: Images, network: nn.Module) -> None:
        self._images = list(images) if isinstance(images, Iterator) else images
        parameter = next(network.parameters(), torch.empty(0))
        self._device, self._dtype = parameter.device, parameter.dtype

    def __iter__(self) -> Iterator[Tensor]:
        """One input after another, ``(1, ...)``."""
        return self.batches(1)

    def batches(self, size: int) -> Iterator[Tensor]:
        """The inputs, so many at a time at most."""
        for x in chunks(self._images, size):
            yield x.to(self._device, self._dtype if x.is_floating_point() else None)

    def count(self) -> int | None:
        """How many there are, where that is known beforehand."""
        return len(self._images) if isinstance(self._images, Tensor) else None


def chunks(images: Images, size: int) -> Iterator[Tensor]:
    """Go through inputs, so many at a time at most.

    Raises:
        DecomposeError: there are none, or what should be a tensor is none.
    """
    batches = map(_tensor, [images] if isinstance(images, Tensor) else images)
    split = chain.from_iterable(batch.split(size) for batch in batches if len(batch))
    first = next(split, None)
    if first is None:
        raise DecomposeError("there are no inputs")
    yield first
    yield from split


def _tensor(batch: Any) -> Tensor:
    if isinstance(batch, tuple | list) and batch:
        batch = batch[0]
    if not isinstance(batch, Tensor):
        raise DecomposeError(f"inputs must be tensors, not a {type(batch).__name__}")
    return batch
