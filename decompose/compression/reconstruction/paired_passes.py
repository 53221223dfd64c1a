"""Inputs of a smaller model's layers beside outputs of the original's, layer after layer.

For every input, a pass of the original and one of the smaller model stand behind the same layer while it
is fitted; then both go on to the next, the smaller with what the fitted layer gives. So all layers
together take one pass of each model. What stands takes memory, so a bound says how many passes may
stand behind each layer; the others run again from the start, which is soon done where layers are early
and their maps large.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Self

from torch import Tensor, nn

from decompose.layers.detectors import comparable
from decompose.layers.forward import evaluating
from decompose.layers.hooks import calls_until
from decompose.layers.suspended_passes import (
    Stop,
    SuspendedPass,
    live_bytes,
    may_stand,
    suspending,
)
from decompose.utils.batches import Example

_MOST_BYTES = 1 << 29
"""What all standing passes may hold, but for one that may always stand."""


class Seen(NamedTuple):
    """One call of a layer with one batch.

    Attributes:
        fold: that the batch belongs to; ``None`` of inputs that only help.
        input: ``(batch, ...)``, what the smaller model gives the layer.
        wanted: ``(batch, ...)``, what the original's layer gives for its own input.
    """

    fold: int | None
    input: Tensor
    wanted: Tensor


@dataclass(eq=False)
class _Pair:
    """Passes of one batch through both models.

    Attributes:
        small: the smaller model's.
        original: the original's.
        stands: behind this layer, which may have been changed since; ``None`` of a new pair.
    """

    small: SuspendedPass
    original: SuspendedPass
    stands: str | None = None

    def close(self) -> None:
        """End both."""
        self.small.close()
        self.original.close()


class PairedPasses:
    """Go through both models, one layer at a time.

    Args:
        small: the smaller model.
        model: the original.
        layers: the smaller model's and the original's, by full name, in the order in which they run.
        num_calls: how often the models call each of them with one input.
        batches: batches with their folds, gone through in the same order each time.
        most_bytes: that standing passes may hold.
    """

    def __init__(
        self,
        small: nn.Module,
        model: nn.Module,
        layers: Mapping[str, tuple[nn.Module, nn.Module]],
        num_calls: Mapping[str, int],
        batches: Iterable[tuple[int | None, Example]],
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        self._small, self._model, self._layers = small, model, layers
        self._num_calls, self._batches, self._most_bytes = num_calls, batches, most_bytes
        once = [name for name in layers if num_calls[name] == 1]
        self._order = {name: index for index, name in enumerate(once)}
        self._standing: dict[int, _Pair] = {}
        self._folds: list[int | None] = []
        self._held_by_one: dict[str, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Switch both models to evaluation mode and watch their layers."""
        self._stack.enter_context(evaluating(self._small, self._model))
        for model in (self._small, self._model):
            self._stack.enter_context(comparable(model))
        first, *others = islice((x for _, x in self._batches), 2)
        small, original = ({n: self._layers[n][which] for n in self._order} for which in (0, 1))
        if not may_stand(self._model, original, first, others[0] if others else first):
            self._order.clear()
            return self
        self._stack.enter_context(suspending(small))
        self._stack.enter_context(suspending(original))
        for model, watched in ((self._small, small), (self._model, original)):
            for name, held in live_bytes(model, watched, first).items():
                self._held_by_one[name] = self._held_by_one.get(name, 0) + held
        return self

    def __exit__(self, *_: object) -> None:
        """End all passes."""
        for pair in self._standing.values():
            pair.close()
        self._standing.clear()
        self._stack.close()

    def behind(self, name: str) -> Iterator[Seen]:
        """Show each call of a layer with every batch.

        What follows may change the smaller model's layer in place.

        Args:
            name: of the layer; each once, in order.
        """
        if name not in self._order:
            yield from self._from_the_start(name)
            return
        room = self._most_bytes // max(1, self._held_by_one.get(name, self._most_bytes))
        for index, fold, x in self._all():
            pair = self._standing.pop(index, None)
            if pair is None:
                assert x is not None
                pair = _Pair(SuspendedPass(self._small, x), SuspendedPass(self._model, x))
            seen = self._advance(pair.small, name, pair.stands)
            wanted = self._advance(pair.original, name, None)
            if seen is not None and wanted is not None:
                yield Seen(fold, seen.input, wanted.output)
            if seen is not None and wanted is not None and len(self._standing) < room:
                pair.stands = name
                self._standing[index] = pair
            else:
                pair.close()

    def _all(self) -> Iterator[tuple[int, int | None, Example | None]]:
        """Number, fold and content of each batch; without contents where all passes stand."""
        if self._folds and len(self._standing) == len(self._folds):
            yield from ((index, fold, None) for index, fold in enumerate(self._folds))
            return
        folds = []
        for index, (fold, x) in enumerate(self._batches):
            folds.append(fold)
            yield index, fold, x
        self._folds = folds

    def _advance(self, passing: SuspendedPass, name: str, changed: str | None) -> Stop | None:
        """Let a pass run on to a layer; ``None`` where it has gone past it."""
        stop = passing.stop or passing.advance()
        while stop is not None and self._order[stop.name] < self._order[name]:
            stop = passing.advance(again=stop.name == changed)
        return stop if stop is not None and stop.name == name else None

    def _from_the_start(self, name: str) -> Iterator[Seen]:
        """Show a layer's calls by passes of their own."""
        small, original = self._layers[name]
        count = self._num_calls[name]
        for fold, x in self._batches:
            seen = calls_until(self._small, small, count, x)
            wanted = calls_until(self._model, original, count, x)
            for (before, _), (_, after) in zip(seen, wanted, strict=True):
                yield Seen(fold, before, after)
