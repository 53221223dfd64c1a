"""Replace a model's layers as a plan says, and undo it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import nn

from decompose.algebra import Conv, map_leaves, owned
from decompose.layers.discovery import copied, find_decomposable, find_decomposed, find_layers
from decompose.layers.eligibility import why_not_decomposable
from decompose.layers.execution_forms import DEFAULT_FORM
from decompose.layers.modules import DecomposedLayer, Layer, is_channels_last, to_conv
from decompose.methods.choices import FACTORS, Choice
from decompose.models.plans import Plan
from decompose.utils.errors import DecomposeError

Made = TypeVar("Made", bound=nn.Module)


def rebuild(plan: Plan, model: nn.Module) -> nn.Module:
    """Build the model that ``apply`` would return, its rewritten layers on the meta device.

    Nothing is computed: a loader fills in the weights.

    Args:
        plan: the choices.
        model: the architecture that the plan was made for; left as it was.
    """
    small = substitute(plan, model, prepare=Conv.without_weights)
    set_forms_(small, plan.forms)
    return small


def set_forms_(small: nn.Module, forms: Mapping[str, str]) -> None:
    """Set the forms in which rewritten layers run, in place.

    Args:
        small: a model that ``apply`` made.
        forms: names of ``decompose.layers.execution_forms.FORMS``, by layers' full names.

    Raises:
        DecomposeError: a layer is not rewritten or cannot take its form, or there is no such form.
    """
    layers = find_layers(small)
    for name, form in forms.items():
        layer = layers.get(name)
        if not isinstance(layer, DecomposedLayer):
            raise DecomposeError(f"layer {name} has no form: it is not rewritten")
        try:
            layer.take_form(form)
        except (DecomposeError, ValueError) as error:
            raise DecomposeError(f"layer {name} cannot take form {form}: {error}") from None


def recomposed(small: nn.Module) -> nn.Module:
    """Multiply a model's factors back into dense layers.

    Args:
        small: a model that ``apply`` made; left as it was.

    Returns:
        A new model of the original architecture, without a plan. A bias that repair gave to a
        layer stays with it.
    """
    dense = copied(small)
    layers = find_decomposed(dense).values()
    for layer in layers:
        layer.take_form("dense")
    return copied(dense, {id(layer): layer.body for layer in layers})


def plan_of(model: nn.Module) -> Plan:
    """The plan of a rewritten model, read from its layers."""
    layers = find_decomposed(model)
    return Plan(
        {name: layer.choice for name, layer in layers.items()},
        notes={name: layer.note for name, layer in layers.items() if layer.note is not None},
        forms={name: layer.form for name, layer in layers.items() if layer.form != DEFAULT_FORM},
    )


def substitute(
    plan: Plan,
    model: nn.Module,
    modules: Mapping[str, Layer] | None = None,
    *,
    prepare: Callable[[Conv], Conv] = lambda conv: conv,
) -> nn.Module:
    """Replace the layers of a copy of a model by the plan's decomposed ones.

    Args:
        plan: the choices; its forms are not taken.
        model: left as it was.
        modules: what ``find_decomposable`` gives for it, where that is known already.
        prepare: applied to each layer's convolution before its method.

    Raises:
        DecomposeError: the plan names a layer that the model lacks or that cannot be swapped,
            or a rank out of bounds, or weights are not finite.
    """
    modules = find_decomposable(model) if modules is None else modules
    replacements: dict[int, nn.Module] = {}
    for name, choice in plan.layers.items():
        if name not in modules:
            raise DecomposeError(
                f"the plan rewrites {name}, but no layer of the model has that name; "
                f"there are: {', '.join(modules)}"
            )
        module = modules[name]
        if reason := why_not_decomposable(module):
            raise DecomposeError(f"layer {name} cannot be rewritten: {reason}")
        try:
            layer = _decomposed(module, choice, prepare)
        except DecomposeError as error:
            raise DecomposeError(f"layer {name}: {error}") from None
        layer.note = plan.notes.get(name)
        replacements[id(module)] = like_original(module, layer)
    return copied(model, replacements)


def _decomposed(module: Layer, choice: Choice, prepare: Callable[[Conv], Conv]) -> DecomposedLayer:
    """Decompose a layer, or the factors that it has already."""
    conv = to_conv(module)
    factors = module.factors if isinstance(module, DecomposedLayer) else None
    if choice.method != FACTORS or factors is None:
        return DecomposedLayer(module, choice.rewrite(prepare(conv)), choice)
    assert isinstance(module, DecomposedLayer)
    joined = module.choice.followed_by(choice, conv)
    # Repair changes a layer in place, and a factor may be one of the model's own.
    made = map_leaves(owned, choice.go_on(map_leaves(prepare, factors)))
    layer = DecomposedLayer(module, made, joined)
    layer.is_made_in_turn = True
    return layer


def like_original(original: Layer, layer: Made) -> Made:
    """Give a layer the mode, requires_grad and memory format of the convolution it replaces."""
    layer.train(original.training)
    if isinstance(original, DecomposedLayer):
        layer.requires_grad_(any(parameter.requires_grad for parameter in original.parameters()))
        if is_channels_last(original):
            layer.to(memory_format=torch.channels_last)
        return layer
    for name, parameter in layer.named_parameters():
        source = original.bias if name.endswith("bias") else original.weight
        parameter.requires_grad_(source is not None and source.requires_grad)
    weight = original.weight
    for ndim, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if (
            weight.ndim == ndim
            and weight.is_contiguous(memory_format=memory_format)
            and not weight.is_contiguous()
        ):
            layer.to(memory_format=memory_format)
    return layer
