"""Replace a model's layers as a plan says, and undo it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from decompose.algebra import Conv, keep_outputs, map_leaves, owned
from decompose.layers.channel_pruning import (
    Kept,
    embedded,
    kept_channels,
    narrow_,
    remember_kept,
    set_channels_,
    widen_,
)
from decompose.layers.discovery import copied, find_decomposable, find_decomposed, find_layers
from decompose.layers.eligibility import why_not_decomposable
from decompose.layers.execution_forms import DEFAULT_FORM
from decompose.layers.modules import DecomposedLayer, Layer, is_channels_last, to_conv, to_module
from decompose.methods.choices import FACTORS, Choice
from decompose.methods.pooling import POOL, spread
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
        layer stays with it. Channels that were pruned are there again, of zeros; layers that ran on the
        mean of a map run over all of it again.
    """
    dense, plan = copied(small), plan_of(small)
    layers = find_decomposed(dense)
    for layer in layers.values():
        layer.take_form("dense")
    bodies = {name: _whole(layer) for name, layer in layers.items()}
    whole = copied(dense, {id(layer): bodies[name] for name, layer in layers.items()})
    for choice in plan.layers.values():
        if (pruned := choice.pruned) is not None:
            for writer in pruned.writers:
                widen_(whole, writer, torch.tensor(pruned.kept), pruned.num_channels)
    return whole


def _whole(layer: DecomposedLayer) -> nn.Module:
    """The dense layer, with zeros for input channels that were pruned, over all positions."""
    pruned = layer.choice.pruned
    if layer.choice.method == POOL:
        return like_original(layer, to_module(spread(to_conv(layer))))
    if pruned is None:
        return layer.body
    conv = to_conv(layer)
    whole = embedded(conv, layer, conv.out_channels, pruned.num_channels)
    return like_original(layer, to_module(whole))


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
    written = _written(plan)
    for name, choice in plan.layers.items():
        if name not in modules:
            raise DecomposeError(
                f"the plan rewrites {name}, but no layer of the model has that name; "
                f"there are: {', '.join(modules)}"
            )
        module = modules[name]
        if reason := why_not_decomposable(module):
            raise DecomposeError(f"layer {name} cannot be rewritten: {reason}")
        kept = Kept(_inputs_of(choice), written.get(name))
        try:
            layer = _decomposed(module, choice, prepare, kept)
        except DecomposeError as error:
            raise DecomposeError(f"layer {name}: {error}") from None
        layer.note = plan.notes.get(name)
        replacements[id(module)] = like_original(module, layer)
    small = copied(model, replacements)
    for name in (writer for writer in written if writer not in plan.layers):
        try:
            narrow_(small, name, written[name])
        except (DecomposeError, AttributeError) as error:
            raise DecomposeError(f"{name} cannot lose channels: {error}") from None
    return small


def _written(plan: Plan) -> dict[str, Tensor]:
    """The channels that modules still write, by full name."""
    return {
        writer: torch.tensor(choice.pruned.kept)
        for choice in plan.layers.values()
        if choice.pruned is not None
        for writer in choice.pruned.writers
    }


def _inputs_of(choice: Choice) -> Tensor | None:
    return None if choice.pruned is None else torch.tensor(choice.pruned.kept)


def _decomposed(
    module: Layer, choice: Choice, prepare: Callable[[Conv], Conv], kept: Kept
) -> DecomposedLayer:
    """Decompose a layer, or the factors that it has already."""
    conv = to_conv(module)
    factors = module.factors if isinstance(module, DecomposedLayer) else None
    if isinstance(module, DecomposedLayer) and module.choice.pruned and choice.method != FACTORS:
        # Its writers stay narrow, whatever becomes of its kernel.
        choice = replace(module.choice, then=(choice,))
    if choice.method != FACTORS or factors is None:
        if kept.outputs is not None and len(kept.outputs) < conv.out_channels:
            conv = keep_outputs(conv, kept.outputs)
            assert isinstance(conv, Conv)
        layer = DecomposedLayer(module, choice.rewrite(prepare(conv)), choice)
        remember_kept(layer, kept_channels(module))
        set_channels_(layer, kept)
        return layer
    assert isinstance(module, DecomposedLayer)
    joined = module.choice.followed_by(choice, conv)
    # Repair changes a layer in place, and a factor may be one of the model's own.
    made = map_leaves(owned, choice.go_on(map_leaves(prepare, factors)))
    layer = DecomposedLayer(module, made, joined)
    remember_kept(layer, kept_channels(module))
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
