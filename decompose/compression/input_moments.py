"""Add up the moments of the patches that a layer reads, call after call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from decompose.algebra import (
    Conv,
    Subsampling,
    at_least_float32,
    finite_rows,
    grouped_patches,
    subsampling_for,
)

MOST_POSITIONS = 512
"""Positions of one output whose patches are taken, more or less."""


class InputMoments(ABC):
    """Count and sum of the patches that a layer reads; subclasses add sums of products.

    Args:
        conv: the layer; of a transposed one the patches are single pixels.
        most: positions of one batch's output to look at, more or less.
    """

    is_shifted: ClassVar[bool]
    """Whether the first call's mean is taken off: variances far below it drown in rounding."""

    thins_pixels: ClassVar[bool]
    """Whether fewer pixels than all are taken where the layer is transposed."""

    def __init__(self, conv: Conv, most: int = MOST_POSITIONS) -> None:
        self.conv, self._most = conv, most
        self.num_taps = 1 if conv.geometry.transposed else conv.num_taps
        self.depth = conv.in_channels // conv.groups
        self.count = 0
        self.sum = torch.zeros(conv.groups, self.depth, self.num_taps, dtype=torch.float64)
        self._shift: Tensor | None = None

    def add(self, x: Tensor, output: Tensor) -> None:
        """Add the patches of one call.

        Args:
            x: ``(batch, I, *input_size)``.
            output: ``(batch, O, *output_size)``.
        """
        every, step = self.strides(output)
        seen = at_least_float32(x.detach()[::every])
        rows = self._rows(seen, step)
        (rows,) = finite_rows(rows)
        if not rows.shape[1]:
            return
        if self.is_shifted:
            if self._shift is None:
                self._shift = rows.mean(1, keepdim=True)
            # Patches are a copy; pixels may be the layer's input itself.
            is_copy = rows.untyped_storage().data_ptr() != seen.untyped_storage().data_ptr()
            rows = rows.sub_(self._shift) if is_copy else rows - self._shift
        self.count += rows.shape[1]
        rows = rows.unflatten(2, (self.depth, self.num_taps))
        self.sum += rows.sum(1).cpu().double()
        self._add_products(rows)

    def strides(self, output: Tensor) -> Subsampling:
        """Strides at which positions of an output are sampled."""
        return subsampling_for(output.shape, self.conv.geometry.num_axes, self._most)

    def mean(self) -> Tensor:
        """Mean of a patch, ``(groups, I', taps)``, float64."""
        shift = 0.0 if self._shift is None else self._shift.cpu().view(self.sum.shape)
        return self.sum / self.count + shift

    def _rows(self, x: Tensor, step: int) -> Tensor:
        """Patches or pixels, ``(groups, n, I' taps)``."""
        conv, num_axes = self.conv, self.conv.geometry.num_axes
        if conv.geometry.transposed:
            stride = step if self.thins_pixels else 1
            grid = (slice(None), slice(None), *[slice(None, None, stride)] * num_axes)
            rows = x[grid].movedim(1, -1).flatten(0, num_axes)
        else:
            return grouped_patches(conv, x, step)
        return rows.unflatten(1, (conv.groups, -1)).transpose(0, 1)

    @abstractmethod
    def _add_products(self, rows: Tensor) -> None:
        """Add products of the entries of patches ``(groups, n, I', taps)``."""
