"""Suspend forward passes at a layer while others run.

To fit the layers of a model one after another, each layer needs its input behind the layers that are
fitted already. Passes from the start cost as many passes as there are layers; a
suspended pass costs one. Each pass runs in a greenlet (a coroutine that keeps its whole stack), so any
module can be suspended in the middle of its forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple
from weakref import ref

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from decompose.layers.forward import floating_tensors
from decompose.layers.hooks import hooked, layer_input
from decompose.utils.batches import Example, batch_size, call, first, map_tensors, tensors
from decompose.utils.errors import DecomposeError


class Stop(NamedTuple):
    """Where a pass is suspended: before or behind one call of a layer.

    Attributes:
        name: of the layer.
        value: before it its input, behind it its output; the pass may change it in place when it goes on.
        input: of the layer, in either case.
    """

    name: str
    value: Tensor
    input: Tensor


class _Pass(greenlet):
    """The stack of one pass; hooks know by its class that they may suspend it."""


class SuspendedPass:
    """One forward pass, run from one watched layer to the next.

    To be used inside ``suspending_before`` or ``suspending_behind``, where gradients are off.

    Args:
        model: any module.
        x: one batch.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).eval()
        >>> with torch.no_grad(), suspending_behind({"first": model[0], "last": model[2]}):
        ...     suspended = SuspendedPass(model, torch.ones(1, 2))
        ...     stops = [suspended.advance().name, suspended.advance().name]
        ...     suspended.close()
        >>> stops
        ['first', 'last']
    """

    def __init__(self, model: nn.Module, x: Example) -> None:
        self._stack = _Pass(lambda: call(model, x))
        self._modes: tuple[Any, ...] | None = None
        self.stop: Stop | None = None
        self.result: Any = None

    def advance(self) -> Stop | None:
        """Run on to the next watched layer.

        Returns:
            The new stop; ``None`` at the end of the pass, whose output is then in ``result``.
        """
        if self._stack.dead:
            return None
        outside = _modes()
        if self._modes is not None:
            _set_modes(self._modes)
        self._stack.parent = getcurrent()
        try:
            given = self._stack.switch()
        finally:
            self._modes = _modes()
            _set_modes(outside)
        self.stop = None if self._stack.dead else given
        if self._stack.dead:
            self.result = given
        return self.stop

    def advance_to(self, name: str, order: Mapping[str, int]) -> Stop | None:
        """Run on to a watched layer, if the pass is not there yet.

        Args:
            name: of the layer.
            order: places of the watched layers, in the order in which they run.

        Returns:
            The stop there; ``None`` if the pass is past the layer.
        """
        stop = self.stop or self.advance()
        while stop is not None and order[stop.name] < order[name]:
            stop = self.advance()
        return stop if stop is not None and stop.name == name else None

    def close(self) -> None:
        """End the pass, and release its memory."""
        self.stop = None
        if self._stack and not self._stack.dead:
            self._stack.parent = getcurrent()
            self._stack.throw()


@contextmanager
def suspending_before(layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Suspend passes before each call of these layers, which may change until they go on.

    Other passes, such as calls of a layer alone, go through as usual.
    """

    def hook(name: str, _: nn.Module, inputs: Any, keywords: dict[str, Any]) -> None:
        given = layer_input(inputs, keywords)
        _suspend(Stop(name, given, given))

    with ExitStack() as stack:
        for name, layer in layers.items():
            handle = layer.register_forward_pre_hook(partial(hook, name), with_kwargs=True)
            stack.callback(handle.remove)
        yield


@contextmanager
def suspending_behind(layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Suspend passes behind each call of these layers.

    Other passes, such as calls of a layer alone, go through as usual.
    """

    def hook(name: str, _: nn.Module, inputs: Any, keywords: Any, output: Tensor) -> None:
        _suspend(Stop(name, output, layer_input(inputs, keywords)))

    with hooked(layers, hook):
        yield


def _suspend(stop: Stop) -> None:
    """Suspend the pass that runs now, if it is one of those that may be."""
    current = getcurrent()
    if isinstance(current, _Pass) and current.parent is not None:
        current.parent.switch(stop)


def live_bytes(
    model: nn.Module, layers: Mapping[str, nn.Module], x: Example, *, before: bool = False
) -> dict[str, int]:
    """Count the bytes that a pass holds while it is suspended at each layer.

    Counted are inputs and outputs of modules that are still referred to; temporaries of functions that no
    module reads are not. It is measured on the first input of the batch, and multiplied.

    Args:
        model: in evaluation mode, gradients off.
        layers: of the model.
        x: one batch.
        before: whether it is suspended before the layer, or behind it.
    """
    # A slice would count for the whole batch.
    one = map_tensors(Tensor.clone, first(x))
    times = batch_size(x) // batch_size(one)
    alive: list[ref[Tensor]] = []
    found: dict[str, int] = {}
    names = {id(layer): name for name, layer in layers.items()}

    def watch(module: nn.Module, values: Any, *, counts: bool) -> None:
        """Remember a module's tensors, and count what is alive where a pass is suspended."""
        alive.extend(ref(tensor) for tensor in tensors(values))
        name = names.get(id(module))
        if counts and name:
            there = [tensor for known in alive if (tensor := known()) is not None]
            storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in there}
            found[name] = max(found.get(name, 0), sum(storages.values()))

    def enter(module: nn.Module, given: Any, keywords: dict[str, Any]) -> None:
        watch(module, (given, tuple(keywords.values())), counts=before)

    def leave(_: str, module: nn.Module, given: Any, keywords: dict[str, Any], made: Any) -> None:
        watch(module, (given, tuple(keywords.values()), made), counts=not before)

    with hooked(dict(model.named_modules()), leave), ExitStack() as stack:
        for module in model.modules():
            handle = module.register_forward_pre_hook(enter, with_kwargs=True)
            stack.callback(handle.remove)
        call(model, one)
    return {name: times * held for name, held in found.items()}


def are_independent(
    model: nn.Module, layers: Mapping[str, nn.Module], x: Example, other: Example
) -> bool:
    """Whether a model's passes are independent, so that one may be suspended while others run.

    Those of a model that keeps a value of a pass in itself, and reads it later in that pass, are not.

    Args:
        model: in evaluation mode, gradients off.
        layers: that passes are suspended behind.
        x: one batch.
        other: another batch.
    """
    try:
        expected = floating_tensors(call(model, x))
    except DecomposeError:
        return False  # nothing to compare
    with suspending_behind(layers):
        suspended, passing = SuspendedPass(model, x), SuspendedPass(model, other)
        while suspended.advance() is not None:
            passing.advance()
        passing.close()
    given = floating_tensors(suspended.result)
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
