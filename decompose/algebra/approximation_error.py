"""Squared errors of approximations, beside the energy of what they approximate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite, isnan

import torch
from torch import Tensor

from decompose.algebra.composition import compose, with_groups
from decompose.algebra.expressions import Conv, Expression, Geometry

_COMPUTING = 30.0
"""Relative error of a kernel that computing its factors makes, amply, in units of the last place."""


@dataclass(frozen=True)
class Deviation:
    """A squared error beside the energy of the reference; deviations of parts add up.

    Attributes:
        squared_error: sum of squared differences.
        energy: sum of squares of the reference.

    Example:
        >>> Deviation.between(torch.tensor([2.0, 3.0]), torch.tensor([2.0, 0.0]))
        Deviation(squared_error=9.0, energy=4.0)
        >>> (Deviation(1.0, 2.0) + Deviation(0.0, 2.0)).relative
        0.25
    """

    squared_error: float = 0.0
    energy: float = 0.0

    @classmethod
    def between(cls, approximation: Tensor, reference: Tensor) -> Deviation:
        """Compare two tensors of one shape; the sums run in float64.

        Entries of the reference that are not finite, such as scores masked with -inf, are left out. An
        approximation that is not finite where the reference is has an infinite error.
        """
        dtype = torch.promote_types(reference.dtype, torch.float32)
        approximation, reference = approximation.to(dtype), reference.to(dtype)
        energy = _energy(reference)
        if not isfinite(energy):
            finite = torch.isfinite(reference)
            approximation, reference = approximation[finite], reference[finite]
            energy = _energy(reference)
        squared_error = _energy(approximation - reference)
        return cls(inf if isnan(squared_error) else squared_error, energy)

    @property
    def relative(self) -> float:
        """Squared error over energy, without unit; 0 where both vanish."""
        if self.energy == 0:
            return 0.0 if self.squared_error == 0 else float("inf")
        return self.squared_error / self.energy

    def __add__(self, other: Deviation) -> Deviation:
        return Deviation(self.squared_error + other.squared_error, self.energy + other.energy)


def weight_deviation(expression: Expression, conv: Conv) -> Deviation:
    """Squared error of an expression's composed kernel as an approximation of a convolution's.

    Args:
        expression: of the same channels, kernel size and geometry as ``conv``.
        conv: the reference.

    Raises:
        ValueError: they differ in shape or geometry.

    Example:
        >>> conv = Conv(torch.ones(2, 3, 3, 3))
        >>> weight_deviation(Conv(0.5 * conv.weight), conv).relative
        0.25
    """
    composed = compose(expression)
    if _movement(composed) != _movement(conv):
        raise ValueError("its stride, padding or dilation is another")
    if composed.groups != conv.groups:
        composed, conv = with_groups(composed, 1), with_groups(conv, 1)
    if composed.weight.shape != conv.weight.shape:
        raise ValueError(
            f"its kernel has shape {tuple(composed.weight.shape)}, not {tuple(conv.weight.shape)}"
        )
    return Deviation.between(composed.weight, conv.weight)


def is_exact(expression: Expression, conv: Conv) -> bool:
    """Whether an expression's composed kernel equals a convolution's up to rounding.

    Args:
        expression: of the same channels, kernel size and geometry as ``conv``.
        conv: the reference.

    Raises:
        ValueError: they differ in shape or geometry.

    Example:
        >>> conv = Conv(torch.ones(2, 3, 3, 3))
        >>> is_exact(conv, conv), is_exact(Conv(0.5 * conv.weight), conv)
        (True, False)
    """
    # Kernels of half precision are computed in float32 and rounded once.
    computed = torch.promote_types(conv.weight.dtype, torch.float32)
    rounding = _COMPUTING * torch.finfo(computed).eps + torch.finfo(conv.weight.dtype).eps
    return weight_deviation(expression, conv).relative <= rounding**2


def _movement(conv: Conv) -> Geometry:
    """The geometry of a convolution; a single tap has no distance to others, and may read their mean."""
    pairs = zip(conv.geometry.dilation, conv.kernel_size, strict=True)
    dilation = tuple(1 if taps == 1 else distance for distance, taps in pairs)
    return replace(conv.geometry, dilation=dilation, pooled=False)


def _energy(tensor: Tensor) -> float:
    # The norm reduces in float64 without a float64 copy of the tensor.
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64).square())
