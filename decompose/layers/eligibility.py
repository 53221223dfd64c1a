"""Reasons why a layer stays dense: hooks, parametrised or quantised weights, skipped by name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.utils import parametrize

from decompose.layers.discovery import is_plain
from decompose.layers.modules import DECOMPOSABLE, DecomposedLayer, Layer, to_expression
from decompose.utils.name_patterns import matches

UNREACHED = "not reached by the example"
SKIPPED = "skipped by name"


def find_quantised(model: nn.Module) -> dict[str, str]:
    """Find the layers whose weights are quantised by torch, by full name, each with the reason."""
    return {
        name: f"its weights are quantised ({type(module).__name__})"
        for name, module in model.named_modules()
        # Of these modules the weight is a method that unpacks it.
        if not isinstance(module, DECOMPOSABLE)
        and callable(getattr(module, "set_weight_bias", None))
        and callable(getattr(module, "weight", None))
    }


def why_not_decomposable(module: Layer) -> str | None:
    """Why a layer cannot be swapped for another module, or ``None`` if it can."""
    if isinstance(module, DecomposedLayer):
        return _why_not_composed(module)
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


def _why_not_composed(layer: DecomposedLayer) -> str | None:
    """Why the factors of a decomposed layer cannot be multiplied back, or ``None`` if they can."""
    try:
        to_expression(layer)
    except TypeError as error:
        return str(error)
    factors = (part for part in layer.body.modules() if isinstance(part, DECOMPOSABLE))
    reasons = (what_is_attached(layer), *map(why_not_decomposable, factors))
    return next((reason for reason in reasons if reason is not None), None)


def what_is_attached(module: nn.Module) -> str | None:
    """Hooks or another forward on a module, which would be lost with it; ``None`` if there are none."""
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


def why_skipped(name: str, module: Layer, skip: Sequence[str], *, reached: bool) -> str | None:
    """Why a layer stays dense whatever the budget, or ``None`` if it need not.

    Args:
        name: full name of the layer.
        module: the layer.
        skip: names and patterns to leave.
        reached: whether the example's pass calls it.
    """
    if any(matches(name, pattern) for pattern in skip):
        return SKIPPED
    if not reached:
        return UNREACHED
    return why_not_decomposable(module)
