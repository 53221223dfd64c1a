"""Replay layers' recorded outputs, so that a pass computes only from one layer on.

To try many replacements of one layer, the layers before it need not compute anew for each. A pass
still computes the operators between the layers, which are cheap beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from decompose.layers.forward import comparable_outputs
from decompose.layers.hooks import observing, replacing
from decompose.utils.batches import Example

MOST_BYTES = 1 << 27
"""Bytes of the recorded outputs of one pass, at most."""


class Recording:
    """Outputs of a model and of its layers for one example.

    Args:
        model: in evaluation mode and without gradients, here and in later passes.
        layers: of it, by full name.
        x: one batch.
        most_bytes: to remember; layers with the largest outputs compute theirs anew where there
            are more.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> with torch.no_grad():
        ...     recording = Recording(model, {"0": model[0], "1": model[1]}, torch.ones(1, 2))
        ...     with recording.until("1"):
        ...         y = model(torch.ones(1, 2))
        >>> torch.equal(y, recording.outputs[0])
        True
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        x: Example,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._layers = dict(layers)
        self._calls: list[str] = []
        self._written: dict[str, list[Tensor]] = {}
        self._room = most_bytes
        self._forgotten: set[str] = set()
        with observing(layers, self._keep):
            self.outputs = comparable_outputs(model, x)
            """Of the model, as they are compared."""

    def _keep(self, name: str, _: Tensor, output: Tensor) -> None:
        self._calls.append(name)
        if name in self._forgotten:
            return
        # Later layers may change the output in place.
        self._written.setdefault(name, []).append(output.clone())
        self._room -= output.nbytes
        while self._room < 0 and self._written:
            largest = max(self._written, key=lambda n: _num_bytes(self._written[n]))
            self._room += _num_bytes(self._written.pop(largest))
            self._forgotten.add(largest)

    @contextmanager
    def until(self, name: str) -> Iterator[None]:
        """Replay the outputs of the layers that are done before a layer's first call.

        Args:
            name: of the layer; passes inside must be of the same example.
        """
        before = self._calls[: self._calls.index(name)] if name in self._calls else []
        after = set(self._calls[len(before) :])
        with ExitStack() as stack:
            for other in dict.fromkeys(before):
                if other in self._written and other not in after:
                    play = _Player(self._written[other])
                    stack.enter_context(replacing(self._layers[other], play))
            yield


class _Player:
    """Returns recorded outputs one after another, again and again."""

    def __init__(self, outputs: list[Tensor]) -> None:
        self._outputs, self._next = outputs, 0

    def __call__(self, _: Tensor) -> Tensor:
        output = self._outputs[self._next]
        self._next = (self._next + 1) % len(self._outputs)
        return output.clone()


def _num_bytes(outputs: list[Tensor]) -> int:
    return sum(output.nbytes for output in outputs)
