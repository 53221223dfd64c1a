"""Which layers a network does more with than to call them on one input.

A module may read ``self.conv.weight`` itself, or ask a transposed convolution for an output of a certain
size. A rewritten layer has to compose such a weight, and takes no such wish. So the network is run on an
example with stands in its layers' places, which let everything through and note what would be lost.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from decompose.layers.costs import Shapes
from decompose.layers.discovery import copied, find_decomposable, is_plain
from decompose.layers.forward import evaluating
from decompose.layers.modules import DECOMPOSABLE, Decomposable, copy_attributes
from decompose.utils.batches import Example, call, first
from decompose.utils.name_patterns import matches

_UNREACHED = "not reached by the example"


def find_weight_readers(
    model: nn.Module, example: Example, layers: Mapping[str, nn.Module]
) -> dict[str, str]:
    """Why layers must stay what they are, by full name, as far as one pass tells.

    Args:
        model: left as it was; it takes the example.
        example: one batch (``calls``); only its first input is used.
        layers: those to watch.

    Returns:
        A reason for each layer that has one.
    """
    found: dict[str, str] = {}
    stands = {
        id(layer): _WeightSpy(layer, partial(found.setdefault, name))
        for name, layer in layers.items()
    }
    with evaluating(model):
        call(copied(model, stands), first(example))
    return found


class _WeightSpy(nn.Module):
    """Passes everything on to a layer, and notes what a rewritten one could not do."""

    def __init__(self, layer: nn.Module, note: Callable[[str], object]) -> None:
        super().__init__()
        copy_attributes(layer, self)
        # Not as a submodule, whose hooks and names would be the network's to see.
        self.__dict__.update(_layer=layer, _note=note)
        self.training = layer.training

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            value = getattr(self.__dict__["_layer"], name)
        self.__dict__["_note"](f"the network reads its {name} itself")
        return value

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        """What the layer gives."""
        if len(inputs) != 1 or keywords:
            self.__dict__["_note"]("the network calls it with more than one input")
        return self.__dict__["_layer"](*inputs, **keywords)


def find_quantised(model: nn.Module) -> dict[str, str]:
    """The layers of a network whose weights are quantised by torch, by full name, with the word for it."""
    return {
        name: f"its weights are quantised ({type(module).__name__})"
        for name, module in model.named_modules()
        # Of these modules the weight is a method that unpacks it.
        if not isinstance(module, DECOMPOSABLE)
        and callable(getattr(module, "set_weight_bias", None))
        and callable(getattr(module, "weight", None))
    }


def why_not_decomposable(module: Decomposable) -> str | None:
    """Why a layer cannot be swapped for another module, or ``None`` if it can."""
    plain = next(kind for kind in DECOMPOSABLE if isinstance(module, kind))
    if parametrize.is_parametrized(module):
        return "its weight is parametrised"
    if not is_plain(module.weight, meta=True):
        kind = type(module.weight).__name__
        return f"its weight is no plain tensor of floating numbers: {kind}, {module.weight.dtype}"
    computed = ("forward", "_conv_forward", "__call__")
    if any(
        getattr(type(module), name, None) is not getattr(plain, name, None) for name in computed
    ):
        return f"{type(module).__name__} computes its own forward"
    if plain is nn.Linear and type(module) is not plain:
        return f"others may look into a {type(module).__name__}"
    return what_is_attached(module)


def what_is_attached(module: nn.Module) -> str | None:
    """What was put on a module, and would go with it: hooks, or another forward; ``None`` if nothing."""
    if "forward" in vars(module):
        return "its forward was replaced"
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
        *(parameter._backward_hooks for parameter in module.parameters()),
    )
    return "it has hooks" if any(hooks) else None


def reasons_to_stay_dense(
    model: nn.Module, example: Example, skip: Sequence[str], shapes: Shapes
) -> dict[str, str]:
    """Why layers stay as they are whatever the wish, by name.

    Args:
        model: left as it was.
        example: one batch (``calls``).
        skip: names and patterns.
        shapes: what ``trace_shapes`` says of the example.
    """
    originals = find_decomposable(model)
    reasons = {
        name: reason
        for name, module in originals.items()
        if (reason := _reason_to_skip(name, module, skip, reached=name in shapes))
    }
    # One that is never called may be read all the same.
    watched = {
        n: layer for n, layer in originals.items() if reasons.get(n, _UNREACHED) == _UNREACHED
    }
    read = find_weight_readers(model, example, watched)
    if read:
        told = "; ".join(f"{name}: {reason}" for name, reason in read.items())
        warnings.warn(f"left dense: {told}", stacklevel=3)
    return find_quantised(model) | reasons | read


def _reason_to_skip(
    name: str, module: Decomposable, skip: Sequence[str], *, reached: bool
) -> str | None:
    if any(matches(name, pattern) for pattern in skip):
        return "skipped by name"
    if not reached:
        return _UNREACHED
    return why_not_decomposable(module)
