"""How a network is called: with one tensor, with several inputs, or with inputs by name.

An *example* is one batch of whatever a network takes:

- a tensor, ``(batch, ...)``;
- a tuple of positional inputs: ``model(*example)``;
- a mapping of inputs by name: ``model(**example)``;
- anything else, such as the list of pictures that a detector takes: ``model(example)``.

Inputs may be nested. The batch is as long as the first tensor or list that is met; what else is as
long is split with it, what is not goes along whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Example = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
"""One batch of what a network takes."""


def call(model: nn.Module, example: Example) -> Any:
    """What a network returns for an example."""
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def batch_size(example: Example) -> int:
    """Inputs in an example; 1 where nothing in it tells."""
    batched = next(_batched(example), None)
    return 1 if batched is None else len(batched)


def split(example: Example, size: int) -> list[Any]:
    """An example as several, of so many inputs at most."""
    if isinstance(example, Tensor):
        return list(example.split(size))
    total = batch_size(example)
    starts = range(0, total, size)
    return [_cut(example, total, slice(start, start + size)) for start in starts]


def first(example: Any) -> Any:
    """An example with the first input alone."""
    return example[:1] if isinstance(example, Tensor) else split(example, 1)[0]


def tensors(example: Any) -> list[Tensor]:
    """The tensors of an example, in their order."""
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, example)
    return found


def map_tensors(function: Callable[[Tensor], Any], example: Any) -> Any:
    """The example with each of its tensors replaced."""
    if isinstance(example, Tensor):
        return function(example)
    if isinstance(example, Mapping):
        return {name: map_tensors(function, part) for name, part in example.items()}
    if isinstance(example, tuple | list):
        parts = [map_tensors(function, part) for part in example]
        return parts if isinstance(example, list) else tuple(parts)
    return example


def moved(example: Any, place: Tensor) -> Any:
    """The example on a tensor's device; floating tensors in its dtype as well."""
    return map_tensors(
        lambda x: x.to(place.device, place.dtype if x.is_floating_point() else None), example
    )


def device_of(example: Example) -> torch.device:
    """Where an example's tensors lie."""
    return next((tensor.device for tensor in tensors(example)), torch.device("cpu"))


def shape_text(example: Any) -> str:
    """The shapes of an example's tensors, for messages."""
    shapes = [str(tuple(tensor.shape)) for tensor in tensors(example)]
    return ", ".join(shapes) or type(example).__name__


def _batched(example: Any) -> Iterator[Tensor | list[Any]]:
    """The tensors and lists that may be split, each in its order."""
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
