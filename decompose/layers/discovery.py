"""Find the layers of a model by name, decomposable or decomposed, and swap them in a copy."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from decompose.algebra import is_exact
from decompose.layers.bound_functions import rebind_closures_
from decompose.layers.channel_pruning import with_kept_outputs
from decompose.layers.modules import DECOMPOSABLE, DecomposedLayer, Layer, to_conv
from decompose.utils.errors import DecomposeError

Model = TypeVar("Model", bound=nn.Module)

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def find_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Find convolutions, decomposed layers and fully connected layers, by full name.

    A module that is held several times is listed once, under its first name. The factors inside a
    decomposed convolution are not listed.

    Raises:
        DecomposeError: the model is no module whose layers could be exchanged.
    """
    _require_module(model)
    layers: dict[str, nn.Module] = {}
    inside: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, DecomposedLayer):
            inside.update(id(part) for part in module.body.modules())
        if id(module) not in inside and isinstance(module, (*DECOMPOSABLE, DecomposedLayer)):
            layers[name] = module
    return layers


def find_decomposable(model: nn.Module) -> dict[str, Layer]:
    """Find convolutions, fully connected layers and decomposed ones, by full name; check their weights.

    Raises:
        DecomposeError: a weight is NaN or infinite, or there is none yet; nothing can be decomposed
            from there.
    """
    found = {
        name: layer
        for name, layer in find_layers(model).items()
        if isinstance(layer, (*DECOMPOSABLE, DecomposedLayer))
    }
    for name, layer in found.items():
        parts = layer.body.modules() if isinstance(layer, DecomposedLayer) else (layer,)
        for weight in (part.weight for part in parts if isinstance(part, DECOMPOSABLE)):
            if is_lazy(weight):
                raise DecomposeError(
                    f"layer {name}: gets its sizes from its first input; call the model once before"
                )
            if is_plain(weight) and not torch.isfinite(weight).all():
                raise DecomposeError(f"layer {name}: its weights are not finite (NaN or Inf)")
    return found


def copied(model: Model, replacements: Mapping[int, nn.Module] = MappingProxyType({})) -> Model:
    """Copy a model deeply, with replacements for some of its modules.

    Args:
        model: left as it was.
        replacements: by the ``id`` of the module that each replaces, wherever that is held.
    """
    # By its memo deepcopy knows which objects have their copy already, so every reference to a layer,
    # wherever it is held, becomes one to its replacement. It refuses tensors that torch computed, as
    # weights are that a hook makes of others.
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    memo: dict[int, Any] = {**computed, **replacements}
    twin = copy.deepcopy(model, memo)
    rebind_closures_(twin, memo, replacements.values())
    return twin


def _require_module(model: nn.Module) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise DecomposeError(
            "the model is TorchScript, whose layers cannot be exchanged; give the module that it was "
            "scripted or traced from"
        )
    if not isinstance(model, nn.Module):
        raise DecomposeError(
            f"a {type(model).__name__} is no torch.nn.Module; of an exported program, give the module "
            "that it was exported from"
        )


def is_plain(weight: Tensor, *, meta: bool = False) -> bool:
    """Whether a weight is a plain floating tensor; one on the meta device only if ``meta`` is set."""
    if weight.is_meta and not meta:
        return False
    return type(weight) in (Tensor, nn.Parameter) and weight.dtype in _DTYPES


def find_decomposed(model: nn.Module) -> dict[str, DecomposedLayer]:
    """Find the decomposed layers of a model, by full name."""
    layers = find_layers(model).items()
    return {name: layer for name, layer in layers if isinstance(layer, DecomposedLayer)}


def find_lossy(
    small: nn.Module, originals: Mapping[str, Layer], names: Iterable[str]
) -> dict[str, tuple[DecomposedLayer, Layer]]:
    """Find the decomposed layers with an error, each with the original's layer, by full name.

    An exact layer has nothing to win back. Refitted to make up for other layers on the inputs at hand,
    it may ruin a classifier on others.

    Args:
        small: the decomposed model.
        originals: the layers of the model by full name.
        names: of layers, in the order of the result.

    Raises:
        DecomposeError: ``small`` was not made from ``model``.
    """
    decomposed = find_decomposed(small)
    found = {}
    for name in filter(decomposed.__contains__, names):
        layer, original = decomposed[name], originals[name]
        conv, pruned = with_kept_outputs(to_conv(original), layer), layer.choice.pruned
        if pruned is not None and not pruned.is_done(conv):
            found[name] = layer, original
            continue
        try:
            exact = is_exact(layer.expression, conv)
        except ValueError as error:
            raise DecomposeError(
                f"layer {name} was not made from the original's: {error}"
            ) from None
        if not exact:
            found[name] = layer, original
    return found
