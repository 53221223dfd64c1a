"""Which layers a rectifier follows, so that their outputs below its threshold do not matter.

What a layer writes is watched on its way through torch: a layer is rectified if each of its outputs
is read by nothing but a ReLU, or by a normalisation by running statistics whose output is. Then
only ``max(a y + b, 0)`` of its output y goes on, with a slope a and an offset b for each channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from decompose.layers.discovery import find_decomposable
from decompose.layers.forward import evaluating
from decompose.layers.hooks import observing
from decompose.layers.modules import to_conv
from decompose.utils.batches import Example, call

_RECTIFIERS = {"relu", "relu_", "hardtanh", "hardtanh_"}
"""Operators that cut off below; hardtanh is ReLU6, which torchvision's mobile networks have."""

_NORMALISERS = {
    "native_batch_norm",
    "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm",
    "miopen_batch_norm",
}


@dataclass(frozen=True, eq=False)
class Rectifier:
    """What goes on of a layer's output: ``max(slope y + offset, 0)``.

    Attributes:
        slope: ``(O,)``.
        offset: ``(O,)``.
    """

    slope: Tensor
    offset: Tensor

    def passes(self, outputs: Tensor) -> Tensor:
        """Which of the outputs ``(..., O)`` go on."""
        return outputs * self.slope + self.offset > 0

    def read(self, outputs: Tensor) -> Tensor:
        """What goes on of the outputs ``(..., O)``."""
        return (outputs * self.slope + self.offset).clamp_min(0)

    def targets(self, wanted: Tensor, given: Tensor) -> Tensor:
        """What a layer should write to pass on what is wanted, with the least change.

        Where the wanted output ``(..., O)`` goes on, itself; elsewhere what is given, if that does
        not go on either, or else the threshold. The squared distance to it bounds that of the
        rectified outputs from above, and meets it at the given one where that one goes on too, so
        that regressing on it again and again lowers theirs (Zhang et al. 2016, arXiv 1505.06798,
        section 3.2, asks for the same by alternating with an auxiliary output).
        """
        threshold = torch.where(self.slope != 0, -self.offset / self.slope, 0.0)
        idle = torch.where(self.passes(given), threshold, given)
        return torch.where(self.passes(wanted), wanted, idle)

    def by_group(self, groups: int) -> Rectifier:
        """The same for outputs ``(groups, N, O / groups)``."""
        return Rectifier(self.slope.view(groups, 1, -1), self.offset.view(groups, 1, -1))


def find_rectifiers(model: nn.Module, x: Example, names: Iterable[str]) -> dict[str, Rectifier]:
    """The rectifiers that follow layers.

    Args:
        model: left as it was.
        x: an input of it (``calls``).
        names: of the layers, in full.

    Returns:
        By name; a layer that anything else reads, or whose calls end in different rectifiers, is
        missing.
    """
    originals = find_decomposable(model)
    layers = {name: originals[name] for name in names}
    watch = _Watch({name: to_conv(layer).out_channels for name, layer in layers.items()})
    with evaluating(model), watch, observing(layers, watch.follow):
        outputs = call(model, x)
    watch.spoil(outputs)
    return watch.rectifiers()


@dataclass(eq=False)
class _Trail:
    """One output of a layer, perhaps normalised since."""

    layer: str
    # Kept, so that no other tensor takes its identity.
    tensor: Tensor
    slope: Tensor
    offset: Tensor


class _Watch(TorchDispatchMode):
    """Follows layers' outputs through the operators that read them."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        self._widths = widths
        self._trails: dict[int, _Trail] = {}
        self._found: dict[str, list[Rectifier]] = {}
        self._spoilt: set[str] = set()

    def follow(self, name: str, _: Tensor, output: Tensor) -> None:
        """Begin with what a layer has just written."""
        ones = output.new_ones(self._widths[name])
        self._trails[id(output)] = _Trail(name, output, ones, torch.zeros_like(ones))

    def spoil(self, read: Any) -> None:
        """Note that something else reads these."""
        for tensor in tree_leaves(read):
            if (trail := self._trails.get(id(tensor))) is not None:
                self._spoilt.add(trail.layer)

    def rectifiers(self) -> dict[str, Rectifier]:
        """The layers whose outputs all end in one rectifier."""
        return {
            name: found[0]
            for name, found in self._found.items()
            if name not in self._spoilt and all(_same(found[0], other) for other in found[1:])
        }

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operator = func.overloadpacket.__name__
        trail = self._trails.get(id(args[0])) if args else None
        if trail is None:
            self.spoil((args, kwargs))
            return func(*args, **kwargs)
        if operator in _RECTIFIERS and _cuts_at_zero(operator, args):
            self._found.setdefault(trail.layer, []).append(Rectifier(trail.slope, trail.offset))
            if operator.endswith("_"):
                # From here on the tensor holds what went on.
                del self._trails[id(args[0])]
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if operator in _NORMALISERS and (affine := _affine(operator, args)) is not None:
            slope, offset = affine
            normalised = result[0]
            self._trails[id(normalised)] = _Trail(
                trail.layer, normalised, slope * trail.slope, slope * trail.offset + offset
            )
        else:
            self.spoil((args, kwargs))
        return result


def _cuts_at_zero(operator: str, args: tuple) -> bool:
    return not operator.startswith("hardtanh") or (len(args) > 1 and args[1] == 0)


def _affine(operator: str, args: tuple) -> tuple[Tensor, Tensor] | None:
    """Slope and offset of a normalisation by running statistics."""
    weight, bias, mean, variance = args[1:5]
    training = operator != "_native_batch_norm_legit_no_training" and args[5]
    if training or mean is None or variance is None:
        return None
    slope = (variance + args[-1]).rsqrt()
    slope = slope if weight is None else slope * weight
    offset = -mean * slope
    return slope, offset if bias is None else offset + bias


def _same(a: Rectifier, b: Rectifier) -> bool:
    return torch.equal(a.slope, b.slope) and torch.equal(a.offset, b.offset)
