"""Prune channels: of layers, of the layers before them, and of the normalisations between.

He et al. 2017 (arXiv 1707.06168), section 3: where a layer's inputs are pruned
(``channel_selection``), the filters that write them go as well, and with them the channels of every
normalisation between. Only possible where nothing else reads them (``dependencies``). The layers stay
plain modules with fewer channels, and remember which ones, so that the model can still be compared with
its original.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from decompose.algebra import Conv, keep_outputs
from decompose.layers.modules import DecomposedLayer, is_channels_last
from decompose.methods.pruning import PRUNE
from decompose.utils.errors import DecomposeError

_ATTRIBUTE = "decompose_kept"


class Kept(NamedTuple):
    """Indices of the original's channels that a layer keeps, ``(n,)`` int64 each; ``None`` for all."""

    inputs: Tensor | None = None
    outputs: Tensor | None = None


def remember_kept(layer: nn.Module, kept: Kept) -> None:
    """Note the kept channels on a layer."""
    setattr(layer, _ATTRIBUTE, kept)


def kept_channels(layer: nn.Module) -> Kept:
    """The kept channels of a layer; all of them if none are noted."""
    return getattr(layer, _ATTRIBUTE, Kept())


def method_and_rank(layer: nn.Module) -> tuple[str, str]:
    """The method that made a layer, and its rank: of a narrowed one the channels left; else ``dense``."""
    if isinstance(layer, DecomposedLayer):
        return layer.choice.label, layer.choice.rank_label
    outputs = kept_channels(layer).outputs
    return ("dense", "") if outputs is None else (PRUNE, str(len(outputs)))


def kept_rows(layer: nn.Module, num_channels: int) -> Tensor | None:
    """Indices of the output channels that a layer keeps of a model with this number of them.

    ``None`` for all: the model may have been pruned itself.
    """
    outputs = kept_channels(layer).outputs
    return None if outputs is None or len(outputs) == num_channels else outputs


def kept_outputs(layer: nn.Module, output: Tensor) -> Tensor:
    """Select the channels of the original's output ``(batch, O, ...)`` that a layer keeps."""
    rows = kept_rows(layer, output.shape[1])
    return output if rows is None else output.index_select(1, rows.to(output.device))


def with_kept_outputs(conv: Conv, layer: nn.Module) -> Conv:
    """Restrict the original's kernel to the output channels that a layer keeps."""
    rows = kept_rows(layer, conv.out_channels)
    if rows is None:
        return conv
    smaller = keep_outputs(conv, rows)
    assert isinstance(smaller, Conv)
    return smaller


def embedded(conv: Conv, layer: nn.Module, out_channels: int, in_channels: int) -> Conv:
    """Embed a pruned layer's kernel in one of the original's size, zero where channels are missing.

    Args:
        conv: the kernel, of one group or depthwise where channels are missing.
        layer: whose kernel it is.
        out_channels: of the original.
        in_channels: of the original.
    """
    inputs, rows = kept_channels(layer).inputs, kept_rows(layer, out_channels)
    weight, bias = conv.weight, conv.bias
    if inputs is not None and len(inputs) < in_channels:
        wide = weight.new_zeros(len(weight), in_channels, *conv.kernel_size)
        weight = wide.index_copy(1, inputs.to(weight.device), weight)
    if rows is not None:
        rows = rows.to(weight.device)
        weight = weight.new_zeros(out_channels, *weight.shape[1:]).index_copy(0, rows, weight)
        bias = None if bias is None else bias.new_zeros(out_channels).index_copy(0, rows, bias)
    groups = out_channels if conv.is_depthwise and rows is not None else conv.groups
    return Conv(weight, bias, conv.geometry, groups)


def put_(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace a module wherever a model holds it, in place."""
    old = model.get_submodule(name)
    held = [n for n, m in model.named_modules(remove_duplicate=False) if m is old]
    for full_name in held:
        owner, _, attribute = full_name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, module)


def set_channels_(layer: nn.Module, kept: Kept) -> None:
    """Set the numbers of channels of a layer that has no others than these, and note them."""
    for attribute, channels in (("in_channels", kept.inputs), ("out_channels", kept.outputs)):
        if channels is not None:
            setattr(layer, attribute, len(channels))
            remember_kept(layer, kept)


def narrow_(model: nn.Module, name: str, kept: Tensor) -> None:
    """Keep some of the output channels of a convolution or normalisation, in place.

    A depthwise convolution loses its inputs with them. One that has no others already stays as it is.

    Args:
        model: whose module it is.
        name: of the module, in full.
        kept: indices of the channels that stay, ``(n,)`` int64, rising.

    Raises:
        AttributeError: there is no such module.
        DecomposeError: it has fewer channels, or is neither a depthwise convolution nor one of one group.
    """
    module = model.get_submodule(name)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        _require_channels(kept, module.num_features)
        if len(kept) < module.num_features:
            shrink_normalisations_(model, [name], kept)
        return
    if not isinstance(module, nn.modules.conv._ConvNd) or module.transposed:
        raise DecomposeError(f"a {type(module).__name__} is no convolution and no normalisation")
    width = module.out_channels
    _require_channels(kept, width)
    if len(kept) == width:
        return
    is_depthwise = module.groups == module.in_channels == width
    if module.groups > 1 and not is_depthwise:
        raise DecomposeError("its channels fall into groups")
    was_channels_last = is_channels_last(module)
    for attribute, tensor in list(module.named_parameters(recurse=False)):
        smaller = tensor.detach().index_select(0, kept.to(tensor.device))
        setattr(module, attribute, nn.Parameter(smaller, tensor.requires_grad))
    module.out_channels = len(kept)
    if is_depthwise:
        module.in_channels = module.groups = len(kept)
    if was_channels_last:
        module.to(memory_format=torch.channels_last)
    remember_kept(module, Kept(outputs=kept))


def widen_(model: nn.Module, name: str, kept: Tensor, num_channels: int) -> None:
    """Give a convolution or normalisation back the output channels that ``narrow_`` took, of zeros.

    Args:
        model: whose module it is.
        name: of the module, in full.
        kept: indices of the channels that it has, ``(n,)`` int64, rising.
        num_channels: that it is to have.
    """
    module: Any = model.get_submodule(name)
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    for attribute, tensor in tensors:
        if tensor.ndim:
            whole = tensor.new_zeros(num_channels, *tensor.shape[1:])
            whole.index_copy_(0, kept.to(tensor.device), tensor.detach())
            if isinstance(tensor, nn.Parameter):
                whole = nn.Parameter(whole, tensor.requires_grad)
            setattr(module, attribute, whole)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.num_features = num_channels
        return
    is_depthwise = module.groups == module.in_channels == module.out_channels
    module.out_channels = num_channels
    if is_depthwise:
        module.in_channels = module.groups = num_channels
    remember_kept(module, Kept())


def _require_channels(kept: Tensor, width: int) -> None:
    if int(kept[-1]) >= width and len(kept) != width:
        raise DecomposeError(f"it has {width} channels, none {int(kept[-1])}")


def shrink_normalisations_(model: nn.Module, names: Sequence[str], kept: Tensor) -> None:
    """Keep some channels of normalisations, in place.

    Args:
        model: whose modules they are.
        names: of batch normalisations, in full.
        kept: indices of the channels that stay, ``(n,)`` int64.
    """
    for name in names:
        norm = model.get_submodule(name)
        tensors = [*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False)]
        for attribute, tensor in tensors:
            if tensor.ndim == 1:
                smaller = tensor.detach().index_select(0, kept.to(tensor.device))
                if isinstance(tensor, nn.Parameter):
                    smaller = nn.Parameter(smaller, tensor.requires_grad)
                setattr(norm, attribute, smaller)
        norm.num_features = len(kept)  # type: ignore[assignment]
