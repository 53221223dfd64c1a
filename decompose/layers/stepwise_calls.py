"""Show one layer after another what it reads and writes, on the same batches.

A pass is suspended behind each layer, so that all layers together cost little more than one pass of each
batch. Layers that a model calls several times are shown by passes from the start, as are layers of models
whose passes cannot be suspended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple, Self

from torch import Tensor, nn

from decompose.layers.detectors import comparable
from decompose.layers.hooks import calls_until
from decompose.layers.suspended_passes import (
    Stop,
    SuspendedPass,
    are_independent,
    live_bytes,
    suspending_behind,
)
from decompose.utils.batches import Example

_MOST_BYTES = 1 << 28
"""What all suspended passes may hold together."""


class LayerCall(NamedTuple):
    """One call of a layer.

    Attributes:
        example: the batch that passed through the model.
        input: of the layer; until the next layer is asked for, since the model may change it then.
        output: of the layer, for as long.
    """

    example: Example
    input: Tensor
    output: Tensor


class StepwiseCalls:
    """Calls of one layer after another.

    Args:
        model: in evaluation mode and without gradients, here and in later passes.
        layers: of it, by full name.
        num_calls: how often the model calls each of its layers, in the order in which they run.
        batches: that pass through the model.
        most_bytes: that suspended passes may hold.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> layers, num_calls = {"0": model[0], "2": model[2]}, {"0": 1, "2": 1}
        >>> with torch.no_grad(), StepwiseCalls(model, layers, num_calls, [torch.ones(4, 2)]) as calls:
        ...     shapes = [call.input.shape for name in layers for call in calls.of(name)]
        >>> shapes
        [torch.Size([4, 2]), torch.Size([4, 3])]
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        num_calls: Mapping[str, int],
        batches: Sequence[Example],
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        self._model, self._layers, self._num_calls = model, layers, num_calls
        self._batches, self._most_bytes = batches, most_bytes
        self._order: dict[str, int] = {}
        self._held_by_one: dict[str, int] = {}
        self._suspended: dict[int, SuspendedPass] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Watch the layers."""
        self._stack.enter_context(comparable(self._model))
        once = {
            n: self._layers[n] for n, c in self._num_calls.items() if c == 1 and n in self._layers
        }
        if once and are_independent(self._model, once, self._batches[0], self._batches[-1]):
            self._order = {name: index for index, name in enumerate(once)}
            self._stack.enter_context(suspending_behind(once))
            self._held_by_one = live_bytes(self._model, once, self._batches[0])
        return self

    def __exit__(self, *_: object) -> None:
        """End all passes."""
        for passing in self._suspended.values():
            passing.close()
        self._suspended.clear()
        self._stack.close()

    def of(self, name: str) -> Iterator[LayerCall]:
        """Yield the calls of a layer with every batch.

        Args:
            name: of the layer; layers are best asked for in the order in which they run.
        """
        if name not in self._order:
            for x in self._batches:
                calls = calls_until(self._model, self._layers[name], self._num_calls[name], x)
                yield from (LayerCall(x, *call) for call in calls)
            return
        held = self._held_by_one.get(name, 0)
        room = self._most_bytes // held if held else len(self._batches)
        for index, x in enumerate(self._batches):
            passing = self._suspended.pop(index, None)
            if passing is None or self._is_past(passing.stop, name):
                passing = _restarted(passing, self._model, x)
            stop = passing.advance_to(name, self._order)
            if stop is not None:
                yield LayerCall(x, stop.input, stop.value)
            if stop is not None and len(self._suspended) < room:
                self._suspended[index] = passing
            else:
                passing.close()

    def _is_past(self, stop: Stop | None, name: str) -> bool:
        return stop is not None and self._order[stop.name] > self._order[name]


def _restarted(passing: SuspendedPass | None, model: nn.Module, x: Example) -> SuspendedPass:
    if passing is not None:
        passing.close()
    return SuspendedPass(model, x)
