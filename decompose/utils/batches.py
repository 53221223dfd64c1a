"""Call models with one tensor, with several inputs, or with inputs by name.

An *example* is one batch of a model's inputs:

- a tensor, ``(batch, ...)``;
- a tuple of positional inputs: ``model(*example)``;
- a mapping of inputs by name: ``model(**example)``;
- anything else, such as the list of images that a detector takes: ``model(example)``.

Inputs may be nested. The batch size is the length of the first tensor or list; others of the same
length are split with it, the rest is passed along whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from decompose.utils.errors import DecomposeError

Batches = Tensor | Mapping[str, Any] | Iterable[Any]
"""Inputs ``(batch, ...)``, or an iterable of them, or of tuples that begin with them.

Instead of a tensor there may be any other example: inputs by name, or, as the first
of a tuple, a tuple of positional inputs or a list of images: ``[((ids, mask),), ([image],)]``.
"""


Example = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
"""One batch of a model's inputs."""


def call(model: nn.Module, example: Example) -> Any:
    """Call a model with an example."""
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def batch_size(example: Example) -> int:
    """Number of inputs in an example; 1 where it holds no tensor with a batch axis."""
    batched = next(_batched(example), None)
    return 1 if batched is None else len(batched)


def split(example: Example, size: int) -> list[Any]:
    """Split an example into parts of at most ``size`` inputs."""
    if isinstance(example, Tensor):
        return list(example.split(size))
    total = batch_size(example)
    starts = range(0, total, size)
    return [_cut(example, total, slice(start, start + size)) for start in starts]


def first(example: Any) -> Any:
    """The first input of an example, as a batch of one."""
    return example[:1] if isinstance(example, Tensor) else split(example, 1)[0]


def tensors(example: Any) -> list[Tensor]:
    """The tensors of an example, in their order."""
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, example)
    return found


def map_tensors(function: Callable[[Tensor], Any], example: Any) -> Any:
    """Replace each tensor of an example."""
    if isinstance(example, Tensor):
        return function(example)
    if isinstance(example, Mapping):
        return {name: map_tensors(function, part) for name, part in example.items()}
    if isinstance(example, tuple | list):
        parts = [map_tensors(function, part) for part in example]
        return parts if isinstance(example, list) else tuple(parts)
    return example


def moved(example: Any, like: Tensor) -> Any:
    """Move an example to a tensor's device, and its floating tensors to the tensor's dtype."""
    return map_tensors(
        lambda x: x.to(like.device, like.dtype if x.is_floating_point() else None), example
    )


def in_channels_last(example: Any) -> Any:
    """Lay images out with the channels last, which convolutions of few channels run quicker on.

    Args:
        example: of which tensors with four axes are taken for images.

    Returns:
        The same values.

    Example:
        >>> in_channels_last(torch.ones(1, 3, 4, 4)).stride()
        (48, 1, 12, 3)
    """
    return map_tensors(
        lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x, example
    )


def device_of(example: Example) -> torch.device:
    """Device of an example's tensors."""
    return next((tensor.device for tensor in tensors(example)), torch.device("cpu"))


def shape_text(example: Any) -> str:
    """The shapes of an example's tensors, for messages."""
    shapes = [str(tuple(tensor.shape)) for tensor in tensors(example)]
    return ", ".join(shapes) or type(example).__name__


def _batched(example: Any) -> Iterator[Tensor | list[Any]]:
    """Tensors and lists of an example that can be split along the batch."""
    if isinstance(example, list) or (isinstance(example, Tensor) and example.ndim):
        yield example
    elif isinstance(example, tuple | Mapping):
        parts: Sequence[Any] = list(example.values() if isinstance(example, Mapping) else example)
        for part in parts:
            yield from _batched(part)


def _cut(example: Any, total: int, window: slice) -> Any:
    if isinstance(example, Mapping):
        return {name: _cut(part, total, window) for name, part in example.items()}
    if isinstance(example, tuple):
        return tuple(_cut(part, total, window) for part in example)
    splits = isinstance(example, list) or (isinstance(example, Tensor) and example.ndim > 0)
    return example[window] if splits and len(example) == total else example


class InputBatches:
    """Calibration inputs that can be iterated any number of times.

    Args:
        images: inputs; an iterator is read into a list.
        model: the model whose device and floating dtype they get.
    """

    def __init__(self, images: Batches, model: nn.Module) -> None:
        if isinstance(images, InputBatches):
            images = images._images
        self._images: Batches = list(images) if isinstance(images, Iterator) else images
        self._like = next(model.parameters(), torch.empty(0))

    def __iter__(self) -> Iterator[Any]:
        """One input after another, ``(1, ...)``."""
        return self.batches(1)

    def batches(self, size: int) -> Iterator[Any]:
        """The inputs in batches of at most ``size``."""
        for x in chunks(self._images, size):
            yield moved(x, self._like)

    def count(self) -> int | None:
        """Number of inputs, where it is known without iterating."""
        return len(self._images) if isinstance(self._images, Tensor) else None


def grouped(inputs: Iterable[Any], size: int) -> Iterator[Any]:
    """Join inputs ``(1, ...)`` to batches of at most ``size``; inputs that are no tensors stay alone."""
    batch: list[Tensor] = []
    for x in inputs:
        is_tensor = isinstance(x, Tensor)
        if batch and (not is_tensor or len(batch) == size or x.shape != batch[0].shape):
            yield torch.cat(batch)
            batch = []
        if is_tensor:
            batch.append(x)
        else:
            yield x
    if batch:
        yield torch.cat(batch)


def chunks(images: Batches, size: int) -> Iterator[Any]:
    """Iterate over inputs in batches of at most ``size``.

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
