"""What the original writes in the layers that come next, many of them seen in one pass.

Of the original nothing changes while a smaller network is repaired layer after layer, so that one pass
of it serves as many layers as memory holds. What it writes for an input is found again by the input's
content: inputs may come in another order each time, and those that are never the same twice are passed
through anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from decompose.algebra import Conv
from decompose.calls import Example, map_tensors, shape_text, tensors
from decompose.layers import observe_until
from decompose.modules import Original, to_conv
from decompose.refitting import Targets

_MOST_BYTES = 1 << 30
"""What is held at a time, at most; of one layer it may be more."""


class Lookahead:
    """Holds what the original writes for inputs that are gone through once a layer.

    Args:
        model: the original, in evaluation mode while this is in use.
        layers: of it, by full name, in the order in which they are asked for.
        num_calls: how often the network calls each of them.
        inputs: gives what it will be asked about, each time anew.
        most_bytes: to hold at a time.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, Original],
        num_calls: Mapping[str, int],
        inputs: Callable[[], Iterable[Example]],
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        self._model, self._layers, self._num_calls = model, dict(layers), num_calls
        self._convs: dict[str, Conv] = {name: to_conv(layer) for name, layer in layers.items()}
        self._inputs, self._most_bytes = inputs, most_bytes
        self._held: dict[str, dict[bytes, list[Targets]]] = {}

    def targets(self, name: str, x: Example) -> list[Targets]:
        """What a layer writes in each of its calls when an input passes.

        Args:
            name: of the layer; those before it are not asked for again.
            x: one of the inputs, or another one.
        """
        if name not in self._held:
            self._look_ahead(name)
        known = self._held[name].get(_digest(x))
        return self._pass([name], x)[name] if known is None else known

    def _look_ahead(self, first: str) -> None:
        """Hold what a layer writes for all inputs, and of the next layers as much as there is room."""
        names = list(self._layers)
        held = {name: {} for name in names[names.index(first) :]}
        room = self._most_bytes
        for x in self._inputs():
            key = _digest(x)
            for name, written in self._pass(held, x).items():
                held[name][key] = written
                room -= _size(written)
            while room < 0 and len(held) > 1:
                _, dropped = held.popitem()
                room += sum(map(_size, dropped.values()))
        self._held = held

    def _pass(self, names: Iterable[str], x: Example) -> dict[str, list[Targets]]:
        layers = {name: self._layers[name] for name in names}
        found: dict[str, list[Targets]] = {name: [] for name in layers}

        def keep(name: str, _: Tensor, output: Tensor) -> None:
            """Keep a copy, since what runs on may change the output in place."""
            made = Targets.of(self._convs[name], output)
            found[name].append(Targets(made.rows.to("cpu", copy=True), made.step))

        observe_until(self._model, layers, self._num_calls, keep, x)
        return found


def _digest(x: Example) -> bytes:
    """What an input is known by: a hash of its numbers, their shapes, and what stands around them."""
    around = map_tensors(lambda tensor: tensor.new_empty(0), x)
    digest = hashlib.blake2b(f"{shape_text(x)} {around!r}".encode(), digest_size=16)
    for tensor in tensors(x):
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(content.numpy().data)
    return digest.digest()


def _size(written: Iterable[Targets]) -> int:
    return sum(targets.rows.nbytes for targets in written)
