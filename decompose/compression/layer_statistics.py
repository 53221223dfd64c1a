"""Moments of one layer's input, and their validation when they come from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

_SLACK = 1e-4
"""Share of the largest variance that rounding may add to another, or take off."""


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Moments of one layer's input and the metric of its output, on the CPU.

    A patch has D = I / groups k_1 ... k_N entries.

    Attributes:
        num_patches: number of patches.
        mean: of a patch, ``(groups, D)``.
        covariance: of a patch, ``(groups, D, D)``; ``(groups, D)``, its diagonal, where a patch is
            too long.
        metric: B, ``(groups, O / groups, O / groups)``.
    """

    num_patches: int
    mean: Tensor
    covariance: Tensor
    metric: Tensor

    @property
    def is_diagonal(self) -> bool:
        """Whether only the diagonal of the covariance is known."""
        return self.covariance.ndim == 2

    def channel_covariance(self, num_taps: int) -> Tensor:
        """Covariance of the channels at one tap, averaged over taps, ``(groups, I', I')``."""
        if self.is_diagonal:
            return torch.diag_embed(self.covariance.unflatten(1, (-1, num_taps)).mean(2))
        blocks = self.covariance.unflatten(2, (-1, num_taps)).unflatten(1, (-1, num_taps))
        return blocks.diagonal(dim1=2, dim2=4).mean(-1)

    def tap_covariance(self, num_taps: int) -> Tensor:
        """Covariance of the taps of one channel, averaged over channels, ``(taps, taps)``."""
        if self.is_diagonal:
            return torch.diag(self.covariance.unflatten(1, (-1, num_taps)).mean((0, 1)))
        blocks = self.covariance.unflatten(2, (-1, num_taps)).unflatten(1, (-1, num_taps))
        return blocks.diagonal(dim1=1, dim2=3).mean((0, -1))


def require_moments(layer: LayerStatistics) -> None:
    """Check that tensors are moments: of fitting shapes, finite, and possible as covariances.

    Raises:
        ValueError: they are not.
    """
    groups, depth = layer.mean.shape
    is_square = layer.covariance.shape == (groups, depth, depth)
    require(is_count(layer.num_patches))
    require(is_square or layer.covariance.shape == (groups, depth))
    require(layer.metric.shape == (groups, layer.metric.shape[1], layer.metric.shape[1]))
    parts = (layer.mean, layer.covariance, layer.metric)
    require(all(part.is_floating_point() and torch.isfinite(part).all() for part in parts))
    for matrices in (layer.metric, *([layer.covariance] if is_square else [])):
        variances = matrices.diagonal(dim1=1, dim2=2)
        slack = _SLACK * variances.abs().amax(1, keepdim=True)
        require((variances >= -slack).all())
        # Cauchy and Schwarz: no covariance is beyond its variances.
        scale = (variances.clamp_min(0) + slack).sqrt()
        require((matrices.abs() <= 1.01 * scale.unsqueeze(1) * scale.unsqueeze(2) + 1e-30).all())
    require(is_square or (layer.covariance >= 0).all())


def require(holds: object) -> None:
    """Raise a ``ValueError`` unless a condition holds."""
    if not holds:
        raise ValueError


def is_count(value: object) -> bool:
    """Whether a value from JSON is a whole number from 1."""
    return type(value) is int and value > 0


def require_corrections(
    corrections: Mapping[str, Mapping[str, float]], layers: Mapping[str, LayerStatistics]
) -> None:
    """Check that corrections are finite, not negative, and of known layers.

    Raises:
        ValueError: they are not.
    """
    require(corrections.keys() <= layers.keys())
    numbers = [correction for found in corrections.values() for correction in found.values()]
    require(
        all(type(correction) in (int, float) and 0 <= correction < inf for correction in numbers)
    )
