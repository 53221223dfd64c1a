"""BatchNorm folded into the layer before it.

With running mean m and variance v, weight g and offset b, a normalisation makes of a layer's output y

    g (y - m) / sqrt(v + e) + b,

which is the same layer with kernel ``W g / sqrt(v + e)`` and another bias: exact in evaluation mode, up
to rounding, and one operator less. A normalisation is folded where it reads nothing but one layer's
outputs, channel by channel, and nothing else reads these, or the weights of either. That is watched, not
guessed from names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from decompose.layers.discovery import copied, find_decomposable
from decompose.layers.eligibility import find_weight_readers, what_is_attached, why_not_decomposable
from decompose.layers.forward import evaluating
from decompose.layers.hooks import observing
from decompose.layers.modules import Decomposable, to_conv, to_module
from decompose.utils.batches import Example, call, first
from decompose.utils.errors import DecomposeError

_ATTRIBUTE = "decompose_folded"

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batchnorm(model: nn.Module, example: Example) -> nn.Module:
    """Fold each BatchNorm that follows a convolution or fully connected layer alone.

    Args:
        model: left as it was.
        example: one batch (``calls``); only its first input is used.

    Returns:
        A new network in evaluation mode, which computes the same; the normalisations are gone from it.
        ``folded_of`` tells which; ``save`` keeps it.

    Raises:
        DecomposeError: nothing can be folded.
    """
    pairs = _find_pairs(model, example)
    if not pairs:
        raise DecomposeError("no BatchNorm follows a layer alone, so that it could be folded")
    return fold_pairs(model, pairs)


def folded_of(model: nn.Module) -> dict[str, str]:
    """The normalisations that were folded into layers of a network, by the layers' full names."""
    return dict(getattr(model, _ATTRIBUTE, {}))


def fold_pairs(model: nn.Module, pairs: Mapping[str, str]) -> nn.Module:
    """Fold given normalisations into given layers; those that are folded already stay so.

    Args:
        model: left as it was.
        pairs: normalisations' full names by layers'.

    Raises:
        DecomposeError: the network has no such layer, or no such normalisation.
    """
    done = folded_of(model)
    todo = {name: norm for name, norm in pairs.items() if done.get(name) != norm}
    if not todo:
        return model
    modules, originals = dict(model.named_modules()), find_decomposable(model)
    replacements: dict[int, nn.Module] = {}
    for name, norm_name in todo.items():
        layer, norm = originals.get(name), modules.get(norm_name)
        if layer is None or (rest := _rest_behind(layer, norm)) is None:
            raise DecomposeError(
                f"{norm_name} cannot be folded into {name}: the network has no such pair"
            )
        replacements[id(layer)] = _fused(layer, norm)
        replacements[id(norm)] = rest
    network = copied(model, replacements).eval()
    setattr(network, _ATTRIBUTE, done | todo)
    return network


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


def _rest_behind(layer: Decomposable, norm: nn.Module | None) -> nn.Module | None:
    """As ``_rest``; ``None`` also where the normalisation has other channels than a layer gives."""
    if norm is None or (rest := _rest(norm)) is None:
        return None
    return rest if len(norm.get_buffer("running_mean")) == to_conv(layer).out_channels else None


def _rest(norm: nn.Module) -> nn.Module | None:
    """What a normalisation does besides; ``None`` where it is none that can be folded."""
    if getattr(norm, "running_mean", None) is None:
        return None
    if type(norm) in _PLAIN or type(norm).__name__ == "FrozenBatchNorm2d":
        return nn.Identity()
    if type(norm).__name__ in ("BatchNormAct2d", "FrozenBatchNormAct2d"):
        # timm's, with a rectifier inside.
        return nn.Sequential(norm.get_submodule("drop"), norm.get_submodule("act"))
    return None


def _find_pairs(model: nn.Module, example: Example) -> dict[str, str]:
    layers = {
        n: layer
        for n, layer in find_decomposable(model).items()
        if why_not_decomposable(layer) is None
    }
    norms = {
        name: module
        for name, module in model.named_modules()
        if _rest(module) is not None and what_is_attached(module) is None
    }
    for name in find_weight_readers(model, example, {**layers, **norms}):
        layers.pop(name, None)
        norms.pop(name, None)
    watch = _Watch({name: to_conv(layer).geometry.num_axes for name, layer in layers.items()})
    with evaluating(model), watch, observing(layers, watch.follow), watch.inside(norms):
        watch.read(call(model, first(example)))
    return watch.pairs()


class _Watch(TorchDispatchMode):
    """Notes who reads what layers write, and what normalisations read.

    Args:
        num_axes: of each layer, besides batch and channels.
    """

    def __init__(self, num_axes: Mapping[str, int]) -> None:
        super().__init__()
        self._num_axes = num_axes
        # The tensors are kept, so that no other takes the identity of one.
        self._written: dict[int, tuple[str, Tensor]] = {}
        self._readers: dict[str, set[str]] = defaultdict(set)
        self._inputs: dict[str, set[str]] = defaultdict(set)
        self._within = ""

    def follow(self, name: str, _: Tensor, output: Tensor) -> None:
        """Note what a layer has written."""
        self._written[id(output)] = name, output

    def read(self, values: Any) -> None:
        """Note that these are read, by the normalisation that runs if there is one."""
        for tensor in tree_leaves(values):
            if id(tensor) in self._written:
                self._readers[self._written[id(tensor)][0]].add(self._within)

    @contextmanager
    def inside(self, norms: Mapping[str, nn.Module]) -> Iterator[None]:
        """Know which of the normalisations runs."""
        handles = []
        for name, norm in norms.items():
            handles.append(norm.register_forward_pre_hook(partial(self._enter, name)))
            handles.append(norm.register_forward_hook(lambda *_: self._leave()))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def pairs(self) -> dict[str, str]:
        """The normalisation of each layer that is read by it alone, and that reads it alone."""
        alone = {name: next(iter(r)) for name, r in self._readers.items() if len(r) == 1}
        return {name: norm for name, norm in alone.items() if self._inputs[norm] == {name}}

    def _enter(self, name: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._within = name
        layer, output = self._written.get(id(inputs[0]), ("", inputs[0]))
        # A normalisation's channels are axis 1, a layer's only in a batch without further axes.
        is_channelwise = layer and output.ndim == self._num_axes[layer] + 2
        self._inputs[name].add(layer if is_channelwise else "")

    def _leave(self) -> None:
        self._within = ""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.read((args, kwargs))
        return func(*args, **(kwargs or {}))


def has_statistics(model: nn.Module) -> bool:
    """Whether a network has normalisations with running statistics."""
    return bool(_running(model))


def reestimate_(model: nn.Module, batches: Iterable[Example]) -> None:
    """Set running means and variances to their average over batches, in place.

    The exponential average that training leaves lags behind its weights; this one is of the weights
    as they are (Wu and Johnson 2021, arXiv 2105.07576, section 3).

    Args:
        model: its modes are left as they were.
        batches: one batch each (``calls``), on the model's device.
    """
    norms = _running(model)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    with evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            # None stands for the average of all that is seen.
            norm.momentum = None
            norm.train()
        try:
            for images in batches:
                call(model, images)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def _running(model: nn.Module) -> list[_BatchNorm]:
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
