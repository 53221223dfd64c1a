"""Fold BatchNorms into the layers before them, and re-estimate their statistics.

With running mean m and variance v, weight g and offset b, a normalisation makes of a layer's output y

    g (y - m) / sqrt(v + e) + b,

which is the same layer with kernel ``W g / sqrt(v + e)`` and another bias: exact in evaluation mode, up
to rounding, and one operator less. A normalisation is folded where it reads nothing but one layer's
outputs, channel by channel, and nothing else reads these, or the weights of either. That is observed in a
forward pass, not guessed from names.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from decompose.algebra import bias_of, last_factors, leaves, scale_outputs
from decompose.layers.consumers import Value, find_consumers
from decompose.layers.costs import trace_shapes
from decompose.layers.discovery import (
    copied,
    find_decomposable,
    find_decomposed,
    find_layers,
)
from decompose.layers.eligibility import what_is_attached, why_not_decomposable
from decompose.layers.forward import evaluating
from decompose.layers.modules import (
    Decomposable,
    DecomposedLayer,
    to_conv,
    to_expression,
    to_module,
)
from decompose.utils.batches import Example, call
from decompose.utils.errors import DecomposeError

_ATTRIBUTE = "decompose_folded"

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batchnorm(model: nn.Module, example: Example) -> nn.Module:
    """Fold each BatchNorm that follows a convolution or fully connected layer alone, decomposed or not.

    Args:
        model: left as it was.
        example: one batch (``utils.batches``); only its first input is used.

    Returns:
        A new model in evaluation mode, which computes the same; the normalisations are gone from it.
        ``folded_of`` lists them; ``save`` keeps the list.

    Raises:
        DecomposeError: nothing can be folded.
    """
    # It says in one line where the model does not take the example.
    trace_shapes(model, example)
    pairs = _find_pairs(model, example)
    if not pairs:
        raise DecomposeError("no BatchNorm follows a layer alone, so that it could be folded")
    return fold_pairs(model, pairs)


def folded_of(model: nn.Module) -> dict[str, str]:
    """The normalisations that were folded into layers, by the full names of the layers."""
    return dict(getattr(model, _ATTRIBUTE, {}))


def fold_pairs(model: nn.Module, pairs: Mapping[str, str]) -> nn.Module:
    """Fold given normalisations into given layers, except those that are folded already.

    Args:
        model: left as it was.
        pairs: normalisations' full names by layers'.

    Raises:
        DecomposeError: the model has no such layer, or no such normalisation.
    """
    done = folded_of(model)
    todo = {name: norm for name, norm in pairs.items() if done.get(name) != norm}
    if not todo:
        return model
    modules, layers = dict(model.named_modules()), find_layers(model)
    replacements: dict[int, nn.Module] = {}
    for name, norm_name in todo.items():
        layer: Any = layers.get(name)
        norm = modules.get(norm_name)
        if layer is None or (rest := _rest_behind(layer, norm)) is None:
            raise DecomposeError(
                f"{norm_name} cannot be folded into {name}: the model has no such pair"
            )
        is_decomposed = isinstance(layer, DecomposedLayer)
        fused = (_fused_factors if is_decomposed else _fused)(layer, norm)
        weights = [weight for weight in fused.parameters() if not weight.is_meta]
        if not all(torch.isfinite(weight).all() for weight in weights):
            raise DecomposeError(
                f"{norm_name} cannot be folded into {name}: its weights would leave the range of "
                f"{weights[0].dtype}; convert the model to float32 before"
            )
        replacements[id(layer)] = fused
        replacements[id(norm)] = rest
    folded = copied(model, replacements).eval()
    setattr(folded, _ATTRIBUTE, done | todo)
    return folded


def _fused(layer: Decomposable, norm: Any) -> nn.Module:
    conv = to_conv(layer)
    wide = [
        None if tensor is None else tensor.detach().double()
        for tensor in (conv.weight, conv.bias, norm.running_mean, norm.running_var)
    ]
    scale = [None if t is None else t.detach().double() for t in (norm.weight, norm.bias)]
    weight, bias = fuse_conv_bn_weights(*wide, norm.eps, *scale)  # type: ignore[arg-type]
    dtype = conv.weight.dtype
    fused = to_module(replace(conv, weight=weight.detach().to(dtype), bias=bias.detach().to(dtype)))
    return fused.requires_grad_(layer.weight.requires_grad)


def _fused_factors(layer: DecomposedLayer, norm: Any) -> nn.Module:
    """Fold a normalisation into the last factors of a decomposed layer."""
    expression = layer.expression
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.detach().double()
    before = bias_of(expression)
    bias = (0.0 if before is None else before.double()) - norm.running_mean.double()
    offset = 0.0 if norm.bias is None else norm.bias.detach().double()
    fused = copy.deepcopy(layer)
    fused.assign(scale_outputs(expression, scale, bias * scale + offset))
    return fused


def _num_axes(layer: nn.Module) -> int:
    return next(leaves(to_expression(layer))).geometry.num_axes


def _num_outputs(layer: nn.Module) -> int:
    return last_factors(to_expression(layer))[0].conv.out_channels


def _rest_behind(layer: nn.Module, norm: nn.Module | None) -> nn.Module | None:
    """As ``_rest``, but ``None`` if the normalisation has another number of channels than the layer."""
    if norm is None or (rest := _rest(norm)) is None:
        return None
    return rest if len(norm.get_buffer("running_mean")) == _num_outputs(layer) else None


def _rest(norm: nn.Module) -> nn.Module | None:
    """The operators of a normalisation behind its own; ``None`` if it cannot be folded."""
    if getattr(norm, "running_mean", None) is None:
        return None
    if type(norm) in _PLAIN or type(norm).__name__ == "FrozenBatchNorm2d":
        return nn.Identity()
    if type(norm).__name__ in ("BatchNormAct2d", "FrozenBatchNormAct2d"):
        # timm's, with a rectifier inside.
        return nn.Sequential(norm.get_submodule("drop"), norm.get_submodule("act"))
    return None


def _find_pairs(model: nn.Module, example: Example) -> dict[str, str]:
    """Find the BatchNorms that alone read the output of one layer, and read nothing else."""
    layers: dict[str, nn.Module] = {
        n: layer
        for n, layer in find_decomposable(model).items()
        if why_not_decomposable(layer) is None
    }
    layers |= find_decomposed(model)
    norms = {
        name: module
        for name, module in model.named_modules()
        if _rest(module) is not None and what_is_attached(module) is None
    }
    found = find_consumers(model, example, layers, norms=norms)
    pairs = {}
    for name in filter(layers.__contains__, found.outputs):
        readers = {use.inside for value in found.outputs[name] for use in value.uses}
        norm = readers.pop() if len(readers) == 1 else ""
        if norm in norms and not found.weights.keys() & {name, norm}:
            num_axes = _num_axes(layers[name])
            if all(_is_whole(v, found.outputs[name], num_axes) for v in found.inputs[norm]):
                pairs[name] = norm
    return pairs


def _is_whole(value: Value | None, written: Sequence[Value], num_axes: int) -> bool:
    """Whether a BatchNorm reads a layer's output as the layer wrote it, channels on axis 1."""
    # A BatchNorm's channels are axis 1, a layer's only in a batch without further axes.
    return value is not None and value in written and len(value.shape) == num_axes + 2


def has_statistics(model: nn.Module) -> bool:
    """Whether a model has normalisations with running statistics."""
    return bool(running_norms(model))


def reestimate_(model: nn.Module, batches: Iterable[Example]) -> None:
    """Set running means and variances to their average over batches, in place.

    The exponential average that training leaves lags behind its weights; this one is of the weights
    as they are (Wu and Johnson 2021, arXiv 2105.07576, section 3).

    Args:
        model: its modes are left as they were.
        batches: one batch each (``utils.batches``), on the model's device.
    """
    norms = running_norms(model)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    with evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            # None averages over all batches.
            norm.momentum = None
            norm.train()
        try:
            for images in batches:
                call(model, images)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def running_norms(model: nn.Module) -> list[_BatchNorm]:
    """The BatchNorms of a model that keep running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
