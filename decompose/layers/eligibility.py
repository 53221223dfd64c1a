"""Which layers a network does more with than to call them on one input.

A module may read ``self.conv.weight`` itself, or ask a transposed convolution for an output of a certain
size. A rewritten layer has to compose such a weight, and takes no such wish. So the network is run on an
example with stands in its layers' places, which let everything through and note what would be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from decompose.layers.discovery import copied, evaluating
from decompose.layers.modules import ORIGINALS, copy_attributes
from decompose.utils.batches import Example, call, first


def find_readers(
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
        id(layer): _Stand(layer, partial(found.setdefault, name)) for name, layer in layers.items()
    }
    with evaluating(model):
        call(copied(model, stands), first(example))
    return found


class _Stand(nn.Module):
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
        if not isinstance(module, ORIGINALS)
        and callable(getattr(module, "set_weight_bias", None))
        and callable(getattr(module, "weight", None))
    }
