"""Forward passes that stand behind a layer while others run, and go on with another output.

Whoever fits the layers of a model one after another needs, for each layer, what reaches it behind the
layers that are fitted already. Passes from the start cost as many passes as there are layers; a
suspended pass costs one. Each pass runs in a greenlet (a coroutine that keeps its whole stack), so any
module can be suspended in its middle, whatever its forward does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from decompose.layers.forward import floating_tensors
from decompose.layers.hooks import hooked, layer_input
from decompose.utils.batches import Example, call, tensors
from decompose.utils.errors import DecomposeError


@dataclass(frozen=True, eq=False)
class Stop:
    """Where a pass stands: behind one call of a layer.

    Attributes:
        name: of the layer.
        input: of the layer; whoever goes on may change it in place.
        output: of the layer.
    """

    name: str
    input: Tensor
    output: Tensor


class _Pass(greenlet):
    """The stack of one pass; hooks know by its class that they may suspend it."""


class SuspendedPass:
    """One forward pass, run from one watched layer to the next.

    It is to be used inside ``suspending``, where gradients are off.

    Args:
        model: any module.
        x: one batch.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).eval()
        >>> with torch.no_grad(), suspending({"first": model[0], "last": model[2]}):
        ...     standing = SuspendedPass(model, torch.ones(1, 2))
        ...     stops = [standing.advance().name, standing.advance(torch.zeros(1, 3)).name]
        ...     standing.close()
        >>> stops
        ['first', 'last']
    """

    def __init__(self, model: nn.Module, x: Example) -> None:
        self._stack = _Pass(lambda: call(model, x))
        self._modes: tuple[Any, ...] | None = None
        self.stop: Stop | None = None
        self.result: Any = None

    def advance(self, output: Tensor | None = None, *, again: bool = False) -> Stop | None:
        """Run on to the next watched layer.

        Args:
            output: what the layer that it stands behind gives instead; its own by default.
            again: let that layer compute its output again, since it has changed in place.

        Returns:
            Where it stands now; ``None`` where it has ended, with its output in ``result``.
        """
        if self._stack.dead:
            return None
        outside = _modes()
        if self._modes is not None:
            _set_modes(self._modes)
        self._stack.parent = getcurrent()
        starts = self._modes is None
        try:
            given = self._stack.switch() if starts else self._stack.switch(output, again)
        finally:
            self._modes = _modes()
            _set_modes(outside)
        self.stop = None if self._stack.dead else given
        if self._stack.dead:
            self.result = given
        return self.stop

    def close(self) -> None:
        """End the pass where it stands, and let go of what it holds."""
        self.stop = None
        if self._stack and not self._stack.dead:
            self._stack.parent = getcurrent()
            self._stack.throw()


@contextmanager
def suspending(layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Let suspended passes stand behind each call of these layers.

    Other passes, such as calls of a layer alone, go through as usual.
    """

    def suspend(
        name: str, layer: nn.Module, inputs: Any, keywords: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        current = getcurrent()
        if not isinstance(current, _Pass) or current.parent is None:
            return None
        replacement, again = current.parent.switch(
            Stop(name, layer_input(inputs, keywords), output)
        )
        return layer.forward(*inputs, **keywords) if again else replacement

    with hooked(layers, suspend):
        yield


def live_bytes(model: nn.Module, layers: Mapping[str, nn.Module], x: Example) -> dict[str, int]:
    """Bytes that a pass holds while it stands behind each layer.

    Counted are inputs and outputs of modules that are still referred to; what functions made and no
    module was given goes uncounted.

    Args:
        model: in evaluation mode, gradients off.
        layers: of the model.
        x: one batch.
    """
    alive: list[ref[Tensor]] = []
    found: dict[str, int] = {}
    names = {id(layer): name for name, layer in layers.items()}

    def watch(_: str, module: nn.Module, given: Any, keywords: dict[str, Any], made: Any) -> None:
        alive.extend(ref(tensor) for tensor in tensors((given, tuple(keywords.values()), made)))
        if name := names.get(id(module)):
            there = [tensor for known in alive if (tensor := known()) is not None]
            storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in there}
            found[name] = max(found.get(name, 0), sum(storages.values()))

    with hooked(dict(model.named_modules()), watch):
        call(model, x)
    return found


def may_stand(
    model: nn.Module, layers: Mapping[str, nn.Module], x: Example, other: Example
) -> bool:
    """Whether a model's passes leave each other alone, so that one may stand while others run.

    A model that keeps something of a pass in itself, and reads it later in the same pass, does not.

    Args:
        model: in evaluation mode, gradients off.
        layers: that passes stand behind.
        x: one batch.
        other: another batch.
    """
    try:
        expected = floating_tensors(call(model, x))
    except DecomposeError:
        return False  # nothing to compare
    with suspending(layers):
        standing, passing = SuspendedPass(model, x), SuspendedPass(model, other)
        while standing.advance() is not None:
            passing.advance()
        passing.close()
    given = floating_tensors(standing.result)
    return len(given) == len(expected) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True)
        for a, b in zip(given, expected, strict=True)
    )


def _modes() -> tuple[Any, ...]:
    """Modes of the thread that a model may set while it runs."""
    autocast = tuple(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))
    return torch.is_grad_enabled(), *autocast


def _set_modes(modes: tuple[Any, ...]) -> None:
    grad, *autocast = modes
    torch.set_grad_enabled(grad)
    for kind, enabled in zip(("cpu", "cuda"), autocast, strict=True):
        torch.set_autocast_enabled(kind, enabled)
