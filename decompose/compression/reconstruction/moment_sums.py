"""Add up moments of rows that come in small portions, joined before they are multiplied.

A product costs its rows times the features squared, and reading and writing the sum the features
squared: with fewer rows than features the latter takes most of the time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from decompose.algebra.gram import mirror_
from decompose.compression.reconstruction.ridge import Moments

_MOST_WAITING = 2**22
"""Numbers of features that wait at most: 16 MB in float32."""


class MomentSums:
    """Moments of all rows that were added.

    Example:
        >>> sums = MomentSums()
        >>> for _ in range(3):
        ...     sums.add(torch.ones(1, 5, 2), torch.ones(1, 5, 4))
        >>> sums.total().count
        15
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._total: Moments | None = None
        self._is_mirrored = False

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add the rows of one portion.

        Args:
            features: ``(groups, n, F)``.
            targets: ``(groups, n, O)``.
        """
        self._waiting.append((features, targets))
        num_rows = sum(z.shape[1] for z, _ in self._waiting)
        groups, _, num_features = features.shape
        if num_rows >= min(num_features, _MOST_WAITING // (groups * num_features)):
            self._multiply()

    def total(self) -> Moments:
        """The sums over all rows; there must be some."""
        if self._waiting:
            self._multiply()
        assert self._total is not None
        if not self._is_mirrored:
            mirror_(self._total.zz)
            self._is_mirrored = True
        return self._total

    def _multiply(self) -> None:
        features, targets = map(_joined, zip(*self._waiting, strict=True))
        self._waiting.clear()
        self._is_mirrored = False
        if self._total is None:
            self._total = Moments.none(features, targets)
        self._total.add_rows_(features, targets)


def _joined(portions: Sequence[Tensor]) -> Tensor:
    """Portions ``(groups, n, F)`` as one, whose columns lie together."""
    return portions[0] if len(portions) == 1 else torch.cat([p.mT for p in portions], 2).mT
