"""What the original writes in the layers that come next, seen in the pass that one layer takes.

Of the original nothing changes while a smaller network is repaired layer after layer. So a pass of it up
to one layer goes on to the next ones, as many as memory holds what they write, and these need no pass of
their own. What is held is found again by the input's content: inputs may come in another order each
time, and those that are never the same twice are passed through anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from decompose.algebra import Conv
from decompose.compression.reconstruction.last_factors import Targets
from decompose.layers.hooks import observe_until
from decompose.layers.modules import Decomposable, to_conv
from decompose.utils.batches import Example, map_tensors, shape_text, tensors
from decompose.utils.hashing import content_of

_MOST_BYTES = 1 << 30
"""What is held at a time, at most, but for what one input makes."""


class TargetCache:
    """Knows what the original writes for inputs that are gone through once a layer.

    Args:
        model: the original, in evaluation mode while this is in use.
        layers: of it, by full name, in the order in which they run.
        num_calls: how often the network calls each of them.
        most_bytes: to hold at a time.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, Decomposable],
        num_calls: Mapping[str, int],
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        self._model, self._layers, self._num_calls = model, dict(layers), num_calls
        self._convs: dict[str, Conv] = {name: to_conv(layer) for name, layer in layers.items()}
        self._most_bytes = self._room = most_bytes
        self._first: str | None = None
        self._held: dict[str, dict[bytes, list[Targets]]] = {}
        self._hits = 0
        self._is_useful = True

    def targets(self, name: str, x: Example) -> list[Targets]:
        """What a layer writes in each of its calls when an input passes.

        Args:
            name: of the layer. All inputs pass for one layer before they do for the next.
            x: the input.
        """
        key = _key(x)
        if name in self._held:
            known = None if key is None else self._held[name].get(key)
            self._hits += known is not None
            return self._pass([name], x)[name] if known is None else self._placed(known)
        if name != self._first:
            self._begin(name)
        written = self._pass([name] if key is None else [name, *self._held], x)
        if key is not None:
            self._hold(key, written)
        return self._placed(written[name])

    def _begin(self, first: str) -> None:
        """Forget what was held, and hold from now on what the layers behind this one write."""
        if self._held and not self._hits:
            self._is_useful = False  # no input came twice
        names = list(self._layers) if self._is_useful else [first]
        self._held = {name: {} for name in names[names.index(first) + 1 :]}
        self._first, self._room, self._hits = first, self._most_bytes, 0

    def _hold(self, key: bytes, written: Mapping[str, list[Targets]]) -> None:
        for name, held in self._held.items():
            if key not in held:
                held[key] = written[name]
                self._room -= _size(written[name])
        while self._room < 0 and self._held:
            _, dropped = self._held.popitem()
            self._room += sum(map(_size, dropped.values()))

    def _pass(self, names: Iterable[str], x: Example) -> dict[str, list[Targets]]:
        layers = {name: self._layers[name] for name in names}
        found: dict[str, list[Targets]] = {name: [] for name in layers}

        def keep(name: str, _: Tensor, output: Tensor) -> None:
            """Keep a copy, since what runs on may change the output in place."""
            made = Targets.of(self._convs[name], output)
            found[name].append(Targets(made.rows.to("cpu", copy=True), made.strides))

        observe_until(self._model, layers, self._num_calls, keep, x)
        return found

    def _placed(self, found: Iterable[Targets]) -> list[Targets]:
        """The targets where the network is."""
        device = next(self._model.parameters()).device
        return [Targets(targets.rows.to(device), targets.strides) for targets in found]


def _key(x: Example) -> bytes | None:
    """A hash of all that an input holds; ``None`` where it holds what cannot be hashed."""
    around = map_tensors(lambda _: None, x)
    found = tensors(x)
    if not _is_plain(around) or not all(map(_is_dense, found)):
        return None
    digest = hashlib.blake2b(f"{shape_text(x)} {around!r}".encode(), digest_size=16)
    for tensor in found:
        digest.update(content_of(tensor))
    return digest.digest()


def _is_plain(part: Any) -> bool:
    """Whether the text of an object tells all of it."""
    if isinstance(part, Mapping):
        return all(_is_plain(key) and _is_plain(value) for key, value in part.items())
    if isinstance(part, tuple | list):
        return all(map(_is_plain, part))
    return part is None or isinstance(part, bool | int | float | str)


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_conj()


def _size(written: Iterable[Targets]) -> int:
    return sum(targets.rows.nbytes for targets in written)
