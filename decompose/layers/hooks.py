"""Observe layers during a forward pass, end the pass after them, or replace them for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from torch import Tensor, nn

from decompose.layers.detectors import comparable
from decompose.utils.batches import Example, call


@contextmanager
def hooked(
    layers: Mapping[str, nn.Module],
    hook: Callable[[str, nn.Module, Any, dict[str, Any], Any], Tensor | None],
) -> Iterator[None]:
    """Call ``hook(name, layer, inputs, keywords, output)`` after each call of a layer.

    Args:
        layers: by name.
        hook: its result replaces the output, unless it is ``None``.
    """
    with ExitStack() as stack:
        for name, layer in layers.items():
            handle = layer.register_forward_hook(partial(hook, name), with_kwargs=True)
            stack.callback(handle.remove)
        yield


def layer_input(inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor:
    """The input of a convolution or fully connected layer, given by position or by name."""
    return inputs[0] if inputs else keywords["input"]


@contextmanager
def observing(
    layers: Mapping[str, nn.Module], observe: Callable[[str, Tensor, Tensor], None]
) -> Iterator[None]:
    """Call ``observe(name, input, output)`` after each call of a layer."""

    def hook(
        name: str, _: nn.Module, inputs: Any, keywords: dict[str, Any], output: Tensor
    ) -> None:
        observe(name, layer_input(inputs, keywords), output)

    with hooked(layers, hook):
        yield


class _Done(Exception):
    """Ends a forward pass early."""


def calls_until(
    model: nn.Module, layer: nn.Module, num_calls: int, x: Example
) -> list[tuple[Tensor, Tensor]]:
    """Run a model until a layer has been called a number of times, and no further.

    Args:
        model: any module.
        layer: one of its layers.
        num_calls: how often the model calls it.
        x: one batch.

    Returns:
        The layer's input and output in each call; fewer where the model calls it less often.
    """
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(_: str, seen: Tensor, output: Tensor) -> None:
        # Later layers may change them in place.
        calls.append((seen.clone(), output.clone()))

    observe_until(model, {"": layer}, {"": num_calls}, keep, x)
    return calls


def observe_until(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    num_calls: Mapping[str, int],
    observe: Callable[[str, Tensor, Tensor], None],
    x: Example,
) -> None:
    """Run a model until each layer has been called a number of times, and no further.

    Args:
        model: any module.
        layers: some of its layers, by any name.
        num_calls: how often the model calls each of them.
        observe: called with a layer's name, input and output after each of these calls.
        x: one batch.
    """
    left = {name: num_calls[name] for name in layers}

    def count(name: str, seen: Tensor, output: Tensor) -> None:
        """Observe a call, and end the pass after the last one wanted."""
        if left.get(name):
            observe(name, seen, output)
            left[name] -= 1
        if not any(left.values()):
            raise _Done

    with observing(layers, count), comparable(model), suppress(_Done):
        call(model, x)


@contextmanager
def replacing(layer: nn.Module, replacement: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Compute a layer's outputs by another function of its input."""

    def forward(*inputs: Tensor, **keywords: Tensor) -> Tensor:
        return replacement(layer_input(inputs, keywords))

    own = layer.__dict__.get("forward")
    layer.__dict__["forward"] = forward
    try:
        yield
    finally:
        del layer.__dict__["forward"]
        if own is not None:
            layer.__dict__["forward"] = own
