"""Pass batches through a smaller model and its original together, layer after layer.

For every batch, a pass of the smaller model is suspended before the layer that is fitted, and one of the
original behind it; then both go on to the next layer, the smaller model's through the fitted one. So
all layers together take one pass of each model. Suspended passes hold memory, so a bound says how many
there may be at each layer: fewer at early layers, whose maps are large and whose unknowns are few. The
other batches start once there is room for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple, Self

from torch import Tensor, nn

from decompose.compression.reconstruction.folded_batches import FoldedBatches
from decompose.data.synthetic import are_cheap
from decompose.layers.detectors import comparable
from decompose.layers.forward import evaluating, takes_channels_last
from decompose.layers.hooks import calls_until
from decompose.layers.suspended_passes import (
    SuspendedPass,
    are_independent,
    live_bytes,
    suspending_before,
    suspending_behind,
)
from decompose.utils.batches import Example, first, in_channels_last

_MOST_BYTES = 3 << 27
"""What all suspended passes may hold together."""

_FEWEST_BATCHES = 16
"""Batches that each layer is fitted to at least, whatever they hold."""

_GOLDEN = 0.6180339887498949


class PairedCall(NamedTuple):
    """One call of a layer with one batch.

    Attributes:
        fold: that the batch belongs to; ``None`` of inputs that only help.
        input: ``(batch, ...)``, what the smaller model gives the layer.
        wanted: ``(batch, ...)``, what the original's layer gives for its own input.
    """

    fold: int | None
    input: Tensor
    wanted: Tensor


@dataclass(frozen=True, eq=False)
class _Pair:
    """Suspended passes of one batch through both models.

    Attributes:
        small: the smaller model's.
        original: the original's.
    """

    small: SuspendedPass
    original: SuspendedPass

    def close(self) -> None:
        """End both passes."""
        self.small.close()
        self.original.close()


class PairedPasses:
    """Passes of all batches through both models, one layer at a time.

    Args:
        small: the smaller model.
        model: the original.
        layers: the smaller model's and the original's, by full name, in the order in which they run.
        num_calls: how often the models call each of them with one input.
        batches: what passes through them.
        most_bytes: that suspended passes may hold.
    """

    def __init__(
        self,
        small: nn.Module,
        model: nn.Module,
        layers: Mapping[str, tuple[nn.Module, nn.Module]],
        num_calls: Mapping[str, int],
        batches: FoldedBatches,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        self._small, self._model, self._layers = small, model, layers
        self._num_calls, self._batches, self._most_bytes = num_calls, batches, most_bytes
        once = [name for name in layers if num_calls[name] == 1]
        self._order = {name: index for index, name in enumerate(once)}
        self._suspended: dict[int, _Pair] = {}
        self._held_by_one: dict[str, int] = {}
        self._is_channels_last = False
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Switch both models to evaluation mode and watch their layers."""
        self._stack.enter_context(evaluating(self._small, self._model))
        last = len(self._batches) - 1
        contents = dict(self._batches.chosen({0, last}))
        one, other = first(contents[0]), first(contents[last])
        models = self._small, self._model
        # Wide convolutions of large images, such as VGG16's, run a tenth slower so.
        self._is_channels_last = are_cheap(one) and all(
            takes_channels_last(model, one) for model in models
        )
        for model in models:
            self._stack.enter_context(comparable(model))
        small, original = ({n: self._layers[n][which] for n in self._order} for which in (0, 1))
        if not are_independent(self._model, original, one, other):
            self._order.clear()
            return self
        self._stack.enter_context(suspending_before(small))
        self._stack.enter_context(suspending_behind(original))
        before = live_bytes(self._small, small, contents[0], before=True)
        behind = live_bytes(self._model, original, contents[0])
        self._held_by_one = {n: before.get(n, 0) + behind.get(n, 0) for n in self._order}
        return self

    def __exit__(self, *_: object) -> None:
        """End all passes."""
        for pair in self._suspended.values():
            pair.close()
        self._suspended.clear()
        self._stack.close()

    def num_batches(self, name: str) -> int:
        """Number of batches that ``behind`` yields for a layer."""
        return min(len(self._batches), max(_FEWEST_BATCHES, self._room(name)))

    def behind(self, name: str) -> Iterator[PairedCall]:
        """Yield calls of a layer: all with every batch, where there is room for all their passes.

        What follows may change the smaller model's layer in place.

        Args:
            name: of the layer; each once, in order.
        """
        chosen = _spread(len(self._batches), self.num_batches(name))
        if name not in self._order:
            yield from self._from_the_start(name, chosen)
            return
        room = self._room(name)
        for index in [index for index in self._suspended if index not in chosen]:
            self._suspended.pop(index).close()
        for index, x in self._contents(chosen):
            pair = self._suspended.pop(index, None)
            if pair is None:
                assert x is not None
                x = in_channels_last(x) if self._is_channels_last else x
                pair = _Pair(SuspendedPass(self._small, x), SuspendedPass(self._model, x))
            given, wanted = (
                passing.advance_to(name, self._order) for passing in (pair.small, pair.original)
            )
            if given is not None and wanted is not None:
                # Patches are copied along rows of the image.
                seen, output = given.value.contiguous(), wanted.value.contiguous()
                yield PairedCall(self._batches.folds[index], seen, output)
            if given is not None and wanted is not None and len(self._suspended) < room:
                self._suspended[index] = pair
            else:
                pair.close()

    def _room(self, name: str) -> int:
        """Number of passes of each model that may be suspended at a layer."""
        held = self._held_by_one.get(name, 0)
        return self._most_bytes // held if held else len(self._batches)

    def _contents(self, chosen: set[int]) -> Iterable[tuple[int, Example | None]]:
        """Index and content of the chosen batches; no content if all of them are suspended."""
        if chosen <= self._suspended.keys():
            return ((index, None) for index in sorted(chosen))
        return self._batches.chosen(chosen)

    def _from_the_start(self, name: str, chosen: set[int]) -> Iterator[PairedCall]:
        """Yield a layer's calls by passes from the start."""
        small, original = self._layers[name]
        count = self._num_calls[name]
        for index, x in self._batches.chosen(chosen):
            seen = calls_until(self._small, small, count, x)
            wanted = calls_until(self._model, original, count, x)
            for (before, _), (_, after) in zip(seen, wanted, strict=True):
                yield PairedCall(self._batches.folds[index], before, after)


def _spread(total: int, count: int) -> set[int]:
    """Choose ``count`` of the indices below ``total``, spread evenly; larger choices hold smaller ones."""
    return set(sorted(range(total), key=lambda index: index * _GOLDEN % 1)[:count])
