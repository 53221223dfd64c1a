"""How far an approximation lies from what it approximates."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from decompose.algebra.composition import compose, with_groups
from decompose.algebra.expressions import Conv, Expression


@dataclass(frozen=True)
class Deviation:
    """A squared error beside the energy of the reference; deviations of parts add up.

    Attributes:
        squared_error: sum of squared differences.
        energy: sum of squares of the reference.
    """

    squared_error: float = 0.0
    energy: float = 0.0

    @classmethod
    def between(cls, approximation: Tensor, reference: Tensor) -> Deviation:
        """Compare two tensors of one shape, in float64."""
        reference = reference.double()
        difference = approximation.double() - reference
        return cls(float(difference.square().sum()), float(reference.square().sum()))

    @property
    def relative(self) -> float:
        """Squared error over energy, without unit; 0 where both vanish."""
        if self.energy == 0:
            return 0.0 if self.squared_error == 0 else float("inf")
        return self.squared_error / self.energy

    def __add__(self, other: Deviation) -> Deviation:
        return Deviation(self.squared_error + other.squared_error, self.energy + other.energy)


def weight_deviation(expression: Expression, conv: Conv) -> Deviation:
    """How far an expression's composed kernel lies from a convolution's.

    Args:
        expression: of the same channels, kernel size and geometry as ``conv``.
        conv: the reference.
    """
    composed = compose(expression)
    if composed.groups != conv.groups:
        composed, conv = with_groups(composed, 1), with_groups(conv, 1)
    return Deviation.between(composed.weight, conv.weight)
