"""Find the layers that a ReLU follows, whose outputs below its threshold do not matter.

A layer is rectified if nothing reads its outputs but ReLUs, or BatchNorms by running statistics that
nothing but ReLUs read (``consumers``). Then only ``max(a y + b, 0)`` of its output y goes on, with a
slope a and an offset b for each channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf

import torch
from torch import Tensor

from decompose.layers.consumers import NORMALISERS, Consumers, Use, Value
from decompose.layers.modules import Layer, to_conv

_RECTIFIERS = {"relu", "relu_", "hardtanh", "hardtanh_"}
"""Operators that cut off below; hardtanh is ReLU6, which torchvision's mobile networks have."""


@dataclass(frozen=True, eq=False)
class Rectifier:
    """The part of a layer's output that passes a ReLU: ``max(slope y + offset, 0)``.

    Attributes:
        slope: ``(O,)``.
        offset: ``(O,)``.
    """

    slope: Tensor
    offset: Tensor

    def passes(self, outputs: Tensor) -> Tensor:
        """Which of the outputs ``(..., O)`` pass."""
        return outputs * self.slope + self.offset > 0

    def read(self, outputs: Tensor) -> Tensor:
        """The outputs ``(..., O)`` behind the ReLU."""
        return (outputs * self.slope + self.offset).clamp_min(0)

    def targets(self, wanted: Tensor, given: Tensor) -> Tensor:
        """Targets for a layer's output that give the wanted output behind the ReLU, with the least change.

        They are the wanted output ``(..., O)`` where that passes the ReLU; elsewhere the given output, if
        that does not pass either, or else the threshold. The squared distance to them bounds that of
        the outputs behind the ReLU from above, and meets it at given outputs that pass, so that
        regressing on them again and again lowers that error (Zhang et al. 2016, arXiv 1505.06798,
        section 3.2, asks for the same by alternating with an auxiliary output).
        """
        return torch.where(self.passes(wanted), wanted, self.cut_off(given))

    def cut_off(self, outputs: Tensor) -> Tensor:
        """The nearest outputs ``(..., O)`` that do not pass; 0 where all of a channel's pass."""
        return outputs.clamp(*self._cut_off_range)

    @cached_property
    def _cut_off_range(self) -> tuple[Tensor, Tensor]:
        """The least and the largest output of each channel that does not pass."""
        threshold = -self.offset / self.slope
        low = torch.where(self.slope < 0, threshold, -inf)
        high = torch.where(self.slope > 0, threshold, inf)
        all_pass = (self.slope == 0) & (self.offset > 0)
        return low.masked_fill(all_pass, 0), high.masked_fill(all_pass, 0)

    def of(self, channels: Tensor) -> Rectifier:
        """The same of some of the channels, ``(n,)`` int64."""
        rows = channels.to(self.slope.device)
        return Rectifier(self.slope[rows], self.offset[rows])

    def by_group(self, groups: int) -> Rectifier:
        """The same for outputs ``(groups, N, O / groups)``."""
        return Rectifier(self.slope.view(groups, 1, -1), self.offset.view(groups, 1, -1))


@torch.no_grad()
def find_rectifiers(consumers: Consumers, layers: Mapping[str, Layer]) -> dict[str, Rectifier]:
    """Find the rectifiers that follow layers.

    Args:
        consumers: of the model.
        layers: some of its layers, by full name.

    Returns:
        By name; a layer whose output anything else reads, or whose calls end in different rectifiers,
        is missing.
    """
    found = {}
    for name, layer in layers.items():
        width = to_conv(layer).out_channels
        ends = [_rectifiers_behind(value, width) for value in consumers.outputs.get(name, ())]
        rectifiers = [rectifier for end in ends if end is not None for rectifier in end]
        if None not in ends and rectifiers and all(_same(rectifiers[0], r) for r in rectifiers[1:]):
            found[name] = rectifiers[0]
    return found


def _rectifiers_behind(value: Value, width: int) -> list[Rectifier] | None:
    """The rectifiers of one output; ``None`` if anything else reads it."""
    slope = torch.ones(width, dtype=value.dtype, device=value.device)
    return _follow(value, slope, torch.zeros_like(slope))


def _follow(value: Value, slope: Tensor, offset: Tensor) -> list[Rectifier] | None:
    found: list[Rectifier] = []
    for use in value.uses:
        if use.operator in _RECTIFIERS and _cuts_at_zero(use):
            found.append(Rectifier(slope, offset))
        elif (step := _affine(use)) is not None and use.result is not None:
            behind = _follow(use.result, step[0] * slope, step[0] * offset + step[1])
            if behind is None:
                return None
            found += behind
        else:
            return None
    return found


def _cuts_at_zero(use: Use) -> bool:
    floor = use.arguments[:1]
    return use.result is not None and (not use.operator.startswith("hardtanh") or floor == (0,))


def _affine(use: Use) -> tuple[Tensor, Tensor] | None:
    """Slope and offset of a BatchNorm by running statistics; ``None`` of other operators."""
    if use.operator not in NORMALISERS or use.result is None:
        return None
    weight, bias, mean, variance, *rest = use.arguments
    training = use.operator != "_native_batch_norm_legit_no_training" and rest[0]
    if training or mean is None or variance is None:
        return None
    slope = (variance + rest[-1]).rsqrt()
    slope = slope if weight is None else slope * weight
    offset = -mean * slope
    return slope, offset if bias is None else offset + bias


def _same(a: Rectifier, b: Rectifier) -> bool:
    return torch.equal(a.slope, b.slope) and torch.equal(a.offset, b.offset)
