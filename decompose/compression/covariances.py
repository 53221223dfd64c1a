"""Covariances of a layer's input by channel, and by tap along each axis of its kernel.

Those of whole patches (``statistics``) have D^2 entries for a patch of D; these have I^2 and k_n^2,
so that one quick pass gathers them for every layer. Their Kronecker product approximates the
covariance of patches, and whitens kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from decompose.algebra import Conv, Whitening
from decompose.compression.input_moments import MOST_POSITIONS, InputMoments
from decompose.compression.layer_statistics import LayerStatistics
from decompose.layers.forward import comparable_outputs, evaluating
from decompose.layers.hooks import observing
from decompose.layers.modules import Layer, to_conv
from decompose.utils.batches import Batches, InputBatches, grouped
from decompose.utils.progress import track

_SOFTNESS = 2.0
"""Of the whitening. Measured on VGG16 at 0.01, 0.3 and 2: the last is best once refitted, by the
layer's output and by the model's."""

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
        """Average the covariance of whole patches over taps, and over channels."""
        between = statistics.tap_covariance(conv.num_taps)
        return cls(
            statistics.channel_covariance(conv.num_taps), _along_axes(between, conv.kernel_size)
        )

    def whitening(self) -> Whitening:
        """Roots of the covariances, softened, in whose coordinates a kernel is truncated."""
        return Whitening.of(self.channels, self.taps, _SOFTNESS)


def is_whitenable(conv: Conv) -> bool:
    """Whether a layer's covariances are small enough to gather and to factorise."""
    return conv.in_channels // conv.groups <= _WIDEST


def gather_covariances(
    model: nn.Module,
    images: Batches,
    layers: Mapping[str, Layer],
    most: int | None = None,
    size: int = 1,
) -> dict[str, AxisCovariances]:
    """Gather the covariances of layers in one pass.

    Args:
        model: left as it was.
        images: unlabelled inputs.
        layers: of the model, by full name; those that are not reached are left out.
        most: inputs to look at; all of them by default.
        size: inputs that pass together, at most (``largest_batch``).

    Raises:
        DecomposeError: there are no inputs.
    """
    sums = {
        name: AxisMoments(to_conv(layer), size * MOST_POSITIONS) for name, layer in layers.items()
    }

    def add(name: str, x: Tensor, output: Tensor) -> None:
        sums[name].add(x, output)

    inputs = InputBatches(images, model)
    with evaluating(model), observing(layers, add):
        count = inputs.count() if most is None else most
        num_batches = None if count is None else -(-count // size)
        batches = grouped(islice(inputs, most), size)
        for x in track(batches, "gathering covariances", num_batches):
            comparable_outputs(model, x)
    return {name: found.covariances() for name, found in sums.items() if found.count}


class AxisMoments(InputMoments):
    """Sums of products of one layer's channels, and of its taps."""

    is_shifted = False
    thins_pixels = False

    def __init__(self, conv: Conv, most: int = MOST_POSITIONS) -> None:
        super().__init__(conv, most)
        self._channels = torch.zeros(conv.groups, self.depth, self.depth, dtype=torch.float64)
        self._taps = torch.zeros(self.num_taps, self.num_taps, dtype=torch.float64)

    def _add_products(self, rows: Tensor) -> None:
        # Columns of patches lie together.
        channels = rows.permute(0, 2, 3, 1).flatten(2)
        self._channels += (channels @ channels.mT).cpu().double()
        taps = rows.permute(3, 0, 2, 1).flatten(1)
        self._taps += (taps @ taps.mT).cpu().double()

    def covariances(self) -> AxisCovariances:
        """Compute the covariances by channel and by tap."""
        mean = self.mean()
        channels = self._channels / self.count - mean @ mean.mT
        flat = mean.flatten(0, 1)
        between = (self._taps / self.count - flat.mT @ flat) / len(flat)
        if self.conv.geometry.transposed:
            # A pixel meets each tap at another position of the output.
            between = between * torch.eye(self.conv.num_taps, dtype=torch.float64)
        return AxisCovariances(
            channels / self.num_taps, _along_axes(between, self.conv.kernel_size)
        )


def _along_axes(between: Tensor, kernel_size: Sequence[int]) -> tuple[Tensor, ...]:
    """Average the covariance between all taps to one between the taps along each axis."""
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
