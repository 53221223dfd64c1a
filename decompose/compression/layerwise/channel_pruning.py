"""Prune channels: of layers, of the layers before them, and of the normalisations between.

He et al. 2017 (arXiv 1707.06168), section 3: where a layer's inputs are pruned
(``channel_selection``), the filters that write them go as well, and with them the channels of every
normalisation between. Only possible where nothing else reads them (``dependencies``). The layers stay
plain modules with fewer channels, and remember which ones, so that the model can still be compared with
its original.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from decompose.algebra import Conv

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


def kept_outputs(layer: nn.Module, output: Tensor) -> Tensor:
    """Select the channels of the original's output ``(batch, O, ...)`` that a layer keeps."""
    outputs = kept_channels(layer).outputs
    return output if outputs is None else output.index_select(1, outputs.to(output.device))


def embedded(conv: Conv, layer: nn.Module, out_channels: int, in_channels: int) -> Conv:
    """Embed a pruned layer's kernel in one of the original's size, zero where channels are missing.

    Args:
        conv: the kernel, of one group where channels are missing.
        layer: whose kernel it is.
        out_channels: of the original.
        in_channels: of the original.
    """
    inputs, outputs = kept_channels(layer)
    if inputs is None and outputs is None:
        return conv
    weight, bias = conv.weight, conv.bias
    if inputs is not None:
        wide = weight.new_zeros(len(weight), in_channels, *conv.kernel_size)
        weight = wide.index_copy(1, inputs.to(weight.device), weight)
    if outputs is not None:
        rows = outputs.to(weight.device)
        weight = weight.new_zeros(out_channels, *weight.shape[1:]).index_copy(0, rows, weight)
        bias = None if bias is None else bias.new_zeros(out_channels).index_copy(0, rows, bias)
    return Conv(weight, bias, conv.geometry, conv.groups)


def put_(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace a module wherever a model holds it, in place."""
    old = model.get_submodule(name)
    held = [n for n, m in model.named_modules(remove_duplicate=False) if m is old]
    for full_name in held:
        owner, _, attribute = full_name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, module)


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
