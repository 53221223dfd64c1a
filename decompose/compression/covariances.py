"""Covariances of a layer's input by channel, and by tap along each axis of its kernel.

Those of whole patches (``statistics``) have D^2 entries for a patch of D; these have I^2 and k_n^2,
so that one quick pass gathers them for every layer. They are what a Kronecker product
approximates the patches' covariance by, and what a kernel is whitened with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decompose.algebra import (
    Conv,
    Whitening,
    at_least_float32,
    finite_rows,
    patches,
    subsampling_for,
)
from decompose.compression.layer_statistics import LayerStatistics
from decompose.layers.forward import comparable_outputs, evaluating
from decompose.layers.hooks import observing
from decompose.layers.modules import Decomposable, to_conv
from decompose.utils.batches import Batches, InputBatches
from decompose.utils.progress import track

_SOFTNESS = 2.0
"""Of the whitening. Measured on VGG16 at 0.01, 0.3 and 2: the last is best once refitted, by the
layer's output and by the network's."""

_MOST_PLACES = 512

_WIDEST = 4096
"""Input channels of a group beyond which a layer is not whitened."""


@dataclass(frozen=True, eq=False)
class AxisCovariances:
    """Covariances of one layer's input, on the CPU.

    Attributes:
        channels: at one tap, averaged over taps, ``(groups, I / groups, I / groups)``.
        taps: along each axis, averaged over channels and the other axes, ``(k_n, k_n)`` each.
    """

    channels: Tensor
    taps: tuple[Tensor, ...]

    @classmethod
    def of_patches(cls, conv: Conv, statistics: LayerStatistics) -> AxisCovariances:
        """From what is known of whole patches."""
        between = statistics.tap_covariance(conv.num_taps)
        return cls(
            statistics.channel_covariance(conv.num_taps), _along_axes(between, conv.kernel_size)
        )

    def whitening(self) -> Whitening:
        """What these covariances turn into white, softened."""
        return Whitening.of(self.channels, self.taps, _SOFTNESS)


def is_whitenable(conv: Conv) -> bool:
    """Whether a layer's covariances are small enough to gather and to factorise."""
    return conv.in_channels // conv.groups <= _WIDEST


def gather_marginals(
    model: nn.Module, images: Batches, layers: Mapping[str, Decomposable]
) -> dict[str, AxisCovariances]:
    """Gather the covariances of layers in one pass.

    Args:
        model: left as it was.
        images: unlabelled inputs.
        layers: of the model, by full name; those that are not reached are left out.

    Raises:
        DecomposeError: there are no inputs.
    """
    sums = {name: AxisMoments(to_conv(layer)) for name, layer in layers.items()}

    def add(name: str, x: Tensor, output: Tensor) -> None:
        sums[name].add(x, output)

    inputs = InputBatches(images, model)
    with evaluating(model), observing(layers, add):
        for x in track(inputs, "gathering covariances", inputs.count()):
            comparable_outputs(model, x)
    return {name: found.marginals() for name, found in sums.items() if found.count}


class AxisMoments:
    """Adds up the moments of one layer."""

    def __init__(self, conv: Conv) -> None:
        self._conv = conv
        depth = conv.in_channels // conv.groups
        self.count = 0
        # A kernel that scatters meets pixels, one tap each.
        self._num_taps = 1 if conv.geometry.transposed else conv.num_taps
        self._sum = torch.zeros(conv.groups, depth, self._num_taps, dtype=torch.float64)
        self._channels = torch.zeros(conv.groups, depth, depth, dtype=torch.float64)
        self._taps = torch.zeros(self._num_taps, self._num_taps, dtype=torch.float64)

    def add(self, x: Tensor, output: Tensor) -> None:
        """Add the patches of one call."""
        geometry = self._conv.geometry
        every, step = subsampling_for(output.shape, geometry.num_axes, _MOST_PLACES)
        x = at_least_float32(x.detach()[::every])
        seen = (
            _pixels(x, geometry.num_axes) if geometry.transposed else patches(self._conv, x, step)
        )
        # (groups, I', N, taps)
        seen = seen.flatten(2) if seen.ndim > 2 else seen.unsqueeze(2)
        seen = seen.movedim(0, 1).unflatten(0, (self._conv.groups, -1))
        (seen,) = finite_rows(seen, axis=2)
        self.count += seen.shape[2]
        self._sum += seen.sum(2).cpu().double()
        flat = seen.flatten(2)
        self._channels += (flat @ flat.mT).cpu().double()
        rows = seen.flatten(0, 2)
        self._taps += (rows.mT @ rows).cpu().double()

    def marginals(self) -> AxisCovariances:
        """What the sums say."""
        conv = self._conv
        mean = self._sum / self.count
        channels = self._channels / self.count - mean @ mean.mT
        flat = mean.flatten(0, 1)
        between = (self._taps / self.count - flat.mT @ flat) / len(flat)
        if conv.geometry.transposed:
            # A pixel meets each tap at another place of the output.
            between = between * torch.eye(conv.num_taps, dtype=torch.float64)
        return AxisCovariances(channels / self._num_taps, _along_axes(between, conv.kernel_size))


def _pixels(x: Tensor, num_axes: int) -> Tensor:
    return x.movedim(1, -1).flatten(0, num_axes)


def _along_axes(between: Tensor, kernel_size: Sequence[int]) -> tuple[Tensor, ...]:
    """The covariance between taps along each axis, from that between all of them."""
    num_axes = len(kernel_size)
    blocks = between.reshape((*kernel_size, *kernel_size))
    found = []
    for axis in range(num_axes):
        rest = [other for other in range(num_axes) if other != axis]
        pairs = blocks.permute(axis, num_axes + axis, *rest, *(num_axes + other for other in rest))
        size = len(between) // kernel_size[axis]
        square = pairs.reshape(kernel_size[axis], kernel_size[axis], size, size)
        found.append(square.diagonal(dim1=2, dim2=3).mean(-1))
    return tuple(found)
