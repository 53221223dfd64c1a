"""Replace a model's layers as a plan says, and undo it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import nn

from decompose.algebra import Conv
from decompose.layers.discovery import copied, find_decomposable, find_decomposed, find_layers
from decompose.layers.eligibility import why_not_decomposable
from decompose.layers.execution_forms import DEFAULT_FORM
from decompose.layers.modules import Decomposable, DecomposedLayer, to_conv
from decompose.models.plans import Plan
from decompose.utils.errors import DecomposeError

Layer = TypeVar("Layer", bound=nn.Module)


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
    modules: Mapping[str, Decomposable] | None = None,
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
                f"the plan rewrites {name}, but no dense layer of the model has that name; "
                f"there are: {', '.join(modules)}"
            )
        module = modules[name]
        if reason := why_not_decomposable(module):
            raise DecomposeError(f"layer {name} cannot be rewritten: {reason}")
        conv = prepare(to_conv(module))
        try:
            expression = choice.rewrite(conv)
        except DecomposeError as error:
            raise DecomposeError(f"layer {name}: {error}") from None
        layer = DecomposedLayer(module, expression, choice, plan.notes.get(name))
        replacements[id(module)] = like_original(module, layer)
    return copied(model, replacements)


def like_original(original: Decomposable, layer: Layer) -> Layer:
    """Give a layer the mode, requires_grad and memory format of the convolution it replaces."""
    layer.train(original.training)
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
