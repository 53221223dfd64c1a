"""Watching the layers of a network while it runs, and putting others in their places for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from decompose.layers.detectors import comparable
from decompose.utils.batches import Example, call


@contextmanager
def observing(
    layers: Mapping[str, nn.Module], observe: Callable[[str, Tensor, Tensor], None]
) -> Iterator[None]:
    """Call ``observe(name, input, output)`` after each call of a layer."""

    def hook(name: str) -> Callable[[nn.Module, Any, dict[str, Any], Tensor], None]:
        """A forward hook that knows its layer's name."""

        def call(_: nn.Module, inputs: Any, keywords: dict[str, Any], output: Tensor) -> None:
            observe(name, inputs[0] if inputs else keywords["input"], output)

        return call

    handles = [
        layer.register_forward_hook(hook(name), with_kwargs=True) for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Done(Exception):
    """Ends a forward pass early."""


def calls_until(
    model: nn.Module, layer: nn.Module, num_calls: int, x: Example
) -> list[tuple[Tensor, Tensor]]:
    """Run a network until a layer has been called so often, and no further.

    Args:
        model: the network.
        layer: one of its layers.
        num_calls: how often the network calls it.
        x: one batch.

    Returns:
        The layer's input and output in each call; fewer where the network calls it less often.
    """
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(_: str, seen: Tensor, output: Tensor) -> None:
        # What runs on may change them in place.
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
    """Run a network until each layer has been called so often, and no further.

    Args:
        model: the network.
        layers: some of its layers, by any name.
        num_calls: how often the network calls each of them.
        observe: called with a layer's name, input and output behind each of these calls.
        x: one batch.
    """
    left = {name: num_calls[name] for name in layers}

    def count(name: str, seen: Tensor, output: Tensor) -> None:
        """Show a call, and end the pass behind the last one wanted."""
        if left.get(name):
            observe(name, seen, output)
            left[name] -= 1
        if not any(left.values()):
            raise _Done

    with observing(layers, count), comparable(model), suppress(_Done):
        call(model, x)


@contextmanager
def replacing(layer: nn.Module, replacement: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let something else compute a layer's outputs, from the same inputs and instead of the layer."""

    def forward(*inputs: Tensor, **keywords: Tensor) -> Tensor:
        return replacement(inputs[0] if inputs else keywords["input"])

    own = layer.__dict__.get("forward")
    layer.__dict__["forward"] = forward
    try:
        yield
    finally:
        del layer.__dict__["forward"]
        if own is not None:
            layer.__dict__["forward"] = own
