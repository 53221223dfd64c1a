"""Inputs of a network, out of what people hold: a tensor, a list of batches, a DataLoader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from decompose.utils.batches import batch_size, moved, split, tensors
from decompose.utils.errors import DecomposeError

Images = Tensor | Mapping[str, Any] | Iterable[Any]
"""Inputs ``(batch, ...)``, or an iterable of such, or of tuples that begin with such.

In the place of a tensor may stand whatever ``calls`` has for one batch: inputs by name, or, as the first
of a tuple, a tuple of positional inputs or a list of pictures: ``[((ids, mask),), ([picture],)]``.
"""


class Inputs:
    """Inputs that can be gone through as often as need be.

    Args:
        images: inputs; what can be gone through once only is kept in memory.
        network: whose device and floating dtype they get.
    """

    def __init__(self, images: Images, network: nn.Module) -> None:
        if isinstance(images, Inputs):
            images = images._images
        self._images: Images = list(images) if isinstance(images, Iterator) else images
        self._place = next(network.parameters(), torch.empty(0))

    def __iter__(self) -> Iterator[Any]:
        """One input after another, ``(1, ...)``."""
        return self.batches(1)

    def batches(self, size: int) -> Iterator[Any]:
        """The inputs, so many at a time at most."""
        for x in chunks(self._images, size):
            yield moved(x, self._place)

    def count(self) -> int | None:
        """How many there are, where that is known beforehand."""
        return len(self._images) if isinstance(self._images, Tensor) else None


def chunks(images: Images, size: int) -> Iterator[Any]:
    """Go through inputs, so many at a time at most.

    Raises:
        DecomposeError: there are none, or what should hold tensors holds none.
    """
    batches = map(_batch, [images] if isinstance(images, Tensor | Mapping) else images)
    parts = chain.from_iterable(split(batch, size) for batch in batches if batch_size(batch))
    first = next(parts, None)
    if first is None:
        raise DecomposeError("there are no inputs")
    yield first
    yield from parts


def _batch(item: Any) -> Any:
    batch = item[0] if isinstance(item, tuple | list) and item else item
    if not tensors(batch):
        raise DecomposeError(f"inputs must be tensors, not a {type(batch).__name__}")
    return batch
