"""Balance a classifier's scores, so that what all classes have in common counts no more than its share.

The scores of some classifiers are mostly common to all classes (83 % of their energy in SqueezeNet's),
which no decision sees: beside it an error that mixes up the classes looks small. So outputs ``(batch,
classes)`` are compared as their deviations from the mean over classes, and that mean scaled down to the
energy that one class has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScoreBalance:
    """Factors of the means over classes.

    Attributes:
        factors: one for each output, at most 1, which leaves it as it is.
    """

    factors: tuple[float, ...]

    @classmethod
    def of(cls, outputs: Sequence[Tensor]) -> ScoreBalance:
        """Measure the factors on outputs of the original.

        Args:
            outputs: floating tensors; those that are not ``(batch, classes)`` are left as they are.

        Example:
            >>> scores = torch.tensor([[101.0, 99.0], [99.0, 101.0]])
            >>> balance = ScoreBalance.of([scores])
            >>> balance.applied([scores])[0].round(decimals=3).tolist()
            [[2.0, 0.0], [0.0, 2.0]]
        """
        return cls(tuple(_factor(y.detach().double()) for y in outputs))

    def applied(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs with their means over classes scaled."""
        return [
            y if factor == 1 else y - (1 - factor) * y.mean(1, keepdim=True)
            for y, factor in zip(outputs, self.factors, strict=True)
        ]


def _factor(y: Tensor) -> float:
    if y.ndim != 2 or y.shape[1] < 2 or not torch.isfinite(y).all():
        return 1.0
    num_classes = y.shape[1]
    common = num_classes * float(y.mean(1).square().sum())
    apart = float((y - y.mean(1, keepdim=True)).square().sum()) / (num_classes - 1)
    return 1.0 if common <= apart or apart == 0 else (apart / common) ** 0.5
