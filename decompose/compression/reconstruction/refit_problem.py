"""The refit of a layer's last factors as a regression problem: its data by folds, and ways to solve it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, reduce
from operator import iadd

import torch
from torch import Tensor

from decompose.algebra import Expression, bias_of
from decompose.compression.reconstruction.factor_regression import (
    Targets,
    outputs_at,
    prior_of,
    samples_of,
)
from decompose.compression.reconstruction.moment_sums import MomentSums
from decompose.compression.reconstruction.relu_regression import RowChunk, RowSample
from decompose.compression.reconstruction.ridge import Fit, Moments, RidgePath
from decompose.layers.relu import Rectifier

_NUM_MIXTURES = 64
"""Mixtures of a layer's targets by which ways of fitting many are compared."""

_NUM_JUDGED = 2
"""Folds on which the error of a layer as it is is taken."""


@dataclass(frozen=True, eq=False)
class FitData:
    """Data that a refit is fitted to, or judged on.

    Attributes:
        rows: sums over all rows.
        chunks: some of the rows, where a rectifier follows.
        prior: the last factors as truncated.
        dtype: in which ridge regressions are solved.
    """

    rows: Moments
    chunks: Sequence[RowChunk]
    prior: Tensor
    dtype: torch.dtype = torch.float64

    def __add__(self, other: FitData) -> FitData:
        """The data of both, of one problem."""
        return replace(self, rows=self.rows + other.rows, chunks=[*self.chunks, *other.chunks])

    @cached_property
    def ridge_path(self) -> RidgePath:
        """The ridge regressions on these rows."""
        return RidgePath(self.rows, self.prior, self.dtype)

    @cached_property
    def mixing(self) -> Tensor:
        """Mixtures of the targets, ``(mixtures, O)``."""
        return _mixing(self.prior.shape[1])

    @cached_property
    def mixed(self) -> FitData:
        """The data of the mixtures of the targets."""
        rows = self.rows.mixed(self.mixing)
        return FitData(rows, [], self.mixing @ self.prior, rows.zz.dtype)

    @property
    def compared(self) -> FitData:
        """The data by which ridges are compared: mixtures, where these are much quicker to fit."""
        return self.mixed if has_many_targets(self.prior) else self


Fitting = Callable[[FitData], Fit]


class RefitProblem:
    """One truncation of a layer, and the data for the refit of its last factors.

    Args:
        label: for reports.
        expression: in float32 at least.
        rectifier: of the ReLU that follows the layer, if one does.
    """

    def __init__(
        self, label: str, expression: Expression, rectifier: Rectifier | None = None
    ) -> None:
        self.label, self.expression = label, expression
        self.prior = prior_of(expression)
        groups, outputs = self.prior.shape[:2]
        bias = bias_of(expression)
        old = torch.zeros(groups, outputs) if bias is None else bias.view(groups, outputs)
        self.untouched = Fit(self.prior, old.double().cpu())
        self.rectifier = rectifier and rectifier.by_group(groups)
        self._sums: defaultdict[int | None, MomentSums] = defaultdict(MomentSums)
        self._kept: defaultdict[int | None, RowSample] = defaultdict(RowSample)

    def add(self, fold: int | None, seen: Tensor, wanted: Targets) -> None:
        """Add inputs of the layer, and the original's outputs.

        Args:
            fold: that the inputs belong to; ``None`` of aids.
            seen: the layer's input.
            wanted: the original's output.
        """
        chunk = samples_of(self.expression, seen, wanted)
        if not chunk[0].shape[1]:
            return
        if self.rectifier is not None:
            self._kept[fold].add(chunk)
        self._sums[fold].add(*chunk)

    @cached_property
    def folds(self) -> list[int]:
        """The folds that have rows."""
        return sorted(fold for fold in self._sums if fold is not None)

    @property
    def num_features(self) -> int:
        """Unknowns of each target."""
        return self.prior.shape[2]

    @property
    def num_kept(self) -> int:
        """Rows that are kept."""
        return sum(z.shape[1] for kept in self._kept.values() for z, _ in kept.chunks)

    @property
    def has_many_targets(self) -> bool:
        """Whether mixtures of the targets are much quicker to fit than all of them."""
        return has_many_targets(self.prior)

    def held_out(self, fold: int) -> FitData:
        """The data of one fold."""
        return self._gathered([fold])

    def training(self, *, without: int | None = None) -> FitData:
        """All data, or all but one fold."""
        return self._gathered([f for f in self._sums if f is None or f != without])

    def _gathered(self, folds: Sequence[int | None]) -> FitData:
        first, *others = (self._sums[fold].total() for fold in folds)
        # The first sum makes room for the others.
        rows = reduce(iadd, others[1:], first + others[0]) if others else first
        return FitData(
            rows.cpu(), [c for fold in folds for c in self._kept[fold].chunks], self.prior
        )


@dataclass(frozen=True, eq=False)
class Refit:
    """A way to refit a layer.

    Attributes:
        how: its description, such as ``ridge 0.3``.
        problem: the truncation that it starts from.
        fitting: makes the fit.
        ridge: its pull, of a ridge regression.
    """

    how: str
    problem: RefitProblem
    fitting: Fitting
    ridge: float | None = None

    def fit(self) -> Fit:
        """Fit to all data."""
        return self.fitting(self.problem.training())

    def mixed_fit(self, given: FitData) -> Fit:
        """Fit mixtures of the targets."""
        # A ridge regression of a mixture is the mixture of the regressions.
        return (
            self.fitting(given).mixed(given.mixing)
            if self.ridge is None
            else self.fitting(given.mixed)
        )


class LayerError:
    """Squared error of a layer as it is, on the first folds.

    Where a rectifier follows, that of what goes on.

    Args:
        expression: of the layer, in float32 at least.
        rectifier: what follows it.
    """

    def __init__(self, expression: Expression, rectifier: Rectifier | None = None) -> None:
        self._expression, self._rectifier = expression, rectifier
        self._sums: dict[int, Tensor] = {}

    def add(self, fold: int | None, seen: Tensor, wanted: Targets) -> None:
        """Add inputs of the layer, and the outputs that it should have.

        Args:
            fold: that the inputs belong to; ``None`` of aids.
            seen: the layer's input.
            wanted: the original's output.
        """
        if fold is None or (fold not in self._sums and len(self._sums) == _NUM_JUDGED):
            return
        given, expected = outputs_at(self._expression, seen, wanted)
        if not len(given):
            return
        if self._rectifier is not None:
            given, expected = self._rectifier.read(given), self._rectifier.read(expected)
        parts = [part.square().sum(dtype=torch.float64) for part in (given - expected, expected)]
        self._sums[fold] = self._sums.get(fold, 0) + torch.stack(parts).cpu()

    @property
    def folds(self) -> list[int]:
        """Those that it is known on."""
        return sorted(self._sums)

    @property
    def relative(self) -> float:
        """Relative to the squared size of the outputs that the layer should have."""
        error, energy = sum(self._sums.values(), torch.zeros(2)).tolist()
        return error / energy if energy else 0.0


def has_many_targets(prior: Tensor) -> bool:
    """Whether mixtures of the targets are much quicker to fit than all of them.

    Args:
        prior: ``(groups, O, F)``.
    """
    return min(prior.shape[1:]) > _NUM_MIXTURES


@cache
def _mixing(num_targets: int) -> Tensor:
    """Orthonormal mixtures of targets, ``(mixtures, num_targets)`` in float64.

    Their error is nearly the same share of the error of all targets for every fit (Johnson and
    Lindenstrauss 1984), so that fits can be compared by them.
    """
    generator = torch.Generator().manual_seed(0)
    shape = num_targets, min(_NUM_MIXTURES, num_targets)
    return torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64)).Q.mT
