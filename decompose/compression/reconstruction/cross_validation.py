"""Choose the refit of a layer that is best on inputs held out.

The inputs fall into four folds; a refit is judged on each fold by its fit to the other three. Aids, such
as synthetic inputs, help to fit, and never judge. Whether they help is not decided on folds: the inputs
that earlier layers were fitted to look better than new ones will, so that they favour too close a fit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial, reduce
from operator import add

import torch
from torch import Tensor

from decompose.algebra import Expression, bias_of
from decompose.compression.reconstruction.factor_regression import (
    Targets,
    outputs_at,
    prior_of,
    samples_of,
)
from decompose.compression.reconstruction.relu_regression import (
    RowChunk,
    RowSample,
    rectified_energy,
    rectified_error,
    rectified_fit,
)
from decompose.compression.reconstruction.ridge import (
    Fit,
    Moments,
    RidgePath,
    excess_error,
    scale_fit,
    shift_fit,
    squared_error,
)
from decompose.layers.relu import Rectifier

RIDGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Pulls towards the truncated factor that are tried, beside infinity: every second one, then those
beside the best."""

_NUM_MIXTURES = 64
"""Mixtures of a layer's targets by which ways of fitting many are compared."""

_MOST_JUDGED = 4096
"""Features times folds that judge, more or less: a fit takes the cube of the features."""

_MOST_FINAL_FOLDS = 2
"""Folds that judge whether to refit at all, and whether with what a rectifier cuts off left free."""

_LEAST_KEPT = 32
"""Kept rows for each unknown, from which on what a rectifier cuts off is left free."""

_ROUNDING = 1e-7
"""Relative squared error that rounding makes."""


@dataclass(frozen=True, eq=False)
class FitData:
    """Data that a refit is fitted to, or judged on.

    Attributes:
        rows: sums over all rows.
        chunks: some of the rows, where a rectifier follows.
        prior: the last factors as truncated.
    """

    rows: Moments
    chunks: Sequence[RowChunk]
    prior: Tensor

    @cached_property
    def ridge_path(self) -> RidgePath:
        """The ridge regressions on these rows."""
        return RidgePath(self.rows, self.prior)

    @cached_property
    def mixing(self) -> Tensor:
        """Mixtures of the targets, ``(mixtures, O)``."""
        return _mixing(self.prior.shape[1])

    @cached_property
    def mixed(self) -> FitData:
        """The data of the mixtures of the targets."""
        return FitData(self.rows.mixed(self.mixing), [], self.mixing @ self.prior)


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
        self._rows: dict[int | None, Moments] = {}
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
        rows = Moments.of(*chunk)
        if fold in self._rows:
            self._rows[fold] += rows
        else:
            self._rows[fold] = rows

    @cached_property
    def folds(self) -> list[int]:
        """The folds that have rows."""
        return sorted(fold for fold in self._rows if fold is not None)

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
        return min(self.prior.shape[1:]) > _NUM_MIXTURES

    def held_out(self, fold: int) -> FitData:
        """The data of one fold."""
        return self._gathered([fold])

    def training(self, *, without: int | None = None) -> FitData:
        """All data, or all but one fold."""
        return self._gathered([f for f in self._rows if f is None or f != without])

    def _gathered(self, folds: Sequence[int | None]) -> FitData:
        rows = reduce(add, (self._rows[fold] for fold in folds)).cpu()
        return FitData(rows, [c for fold in folds for c in self._kept[fold].chunks], self.prior)


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


ErrorOf = Callable[[Refit, FitData, FitData], float]
"""From a refit, what it is fitted to, and what it is judged on, to its squared error there."""


@dataclass(frozen=True, eq=False)
class BestRefit:
    """The best refit on inputs held out.

    Attributes:
        refit: ``None`` where none is better than to leave the layer as it is.
        before: relative squared error of the layer as it is; where a rectifier follows, of what
            goes on.
        after: the same on inputs held out, refitted.
    """

    refit: Refit | None
    before: float
    after: float


class LayerError:
    """Squared error of a layer as it is, on the folds that judge.

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
        if fold is None or (fold not in self._sums and len(self._sums) == _MOST_FINAL_FOLDS):
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


def best_refit(problem: RefitProblem, unchanged: LayerError) -> BestRefit:
    """Choose the best refit of a layer by cross-validation.

    Args:
        problem: a truncation of the layer.
        unchanged: the error of the layer as it is, on the same inputs.
    """
    before = unchanged.relative
    if len(problem.folds) < 2 or before <= _ROUNDING:
        # What reaches the layer is not finite, but for one input at most; or nothing was lost.
        return BestRefit(None, before, before)
    refits = [_best_by_squares(problem)]
    error_of, energy_of, rectifier = _squared_error, _energy, problem.rectifier
    if rectifier is not None:
        error_of = partial(_rectified_error, rectifier)
        energy_of = partial(_rectified_energy, rectifier)
        if refits[0].ridge is not None and problem.num_kept > _LEAST_KEPT * problem.num_features:
            refits.append(_rectified(refits[0], refits[0].ridge, rectifier))
    errors = _errors(refits, unchanged.folds, error_of)
    energy = sum(energy_of(problem.held_out(fold)) for fold in unchanged.folds)
    best = min(errors, key=errors.__getitem__)
    after = errors[best] / energy if energy else before
    return BestRefit(best, before, after) if after < before else BestRefit(None, before, before)


def _best_by_squares(problem: RefitProblem) -> Refit:
    """Choose the refit of the least squared error, its ridge in two rounds."""
    folds = problem.folds[: max(1, _MOST_JUDGED // problem.num_features)]
    error_of = _mixed_error if problem.has_many_targets else _squared_error
    errors = _errors(_first_refits(problem), folds, error_of)
    best = min(errors, key=errors.__getitem__)
    if best.ridge is not None:
        index = RIDGES.index(best.ridge)
        beside = (RIDGES[index - 1], *RIDGES[index + 1 : index + 2])
        errors |= _errors([_ridge(problem, ridge) for ridge in beside], folds, error_of)
    return min(errors, key=errors.__getitem__)


def _first_refits(problem: RefitProblem) -> list[Refit]:
    """The refits of a truncation that are tried first: all but every second ridge."""
    label = problem.label
    refits = [
        Refit(f"{label}bias", problem, lambda given: shift_fit(given.rows, given.prior)),
        Refit(f"{label}scale", problem, lambda given: scale_fit(given.rows, given.prior)),
        _as_truncated(problem),
    ]
    return (
        refits if problem.num_features == 1 else refits + [_ridge(problem, r) for r in RIDGES[1::2]]
    )


def _as_truncated(problem: RefitProblem) -> Refit:
    return Refit(f"{problem.label}not refitted", problem, lambda _: problem.untouched)


def _ridge(problem: RefitProblem, ridge: float) -> Refit:
    how = f"{problem.label}ridge {ridge:g}"
    return Refit(how, problem, lambda given: given.ridge_path.fit(ridge), ridge)


def _rectified(refit: Refit, ridge: float, rectifier: Rectifier) -> Refit:
    """The same refit, with outputs that the ReLU cuts off left free."""

    def fitting(given: FitData) -> Fit:
        start = refit.fitting(given)
        return rectified_fit(given.rows, given.chunks, given.ridge_path, ridge, start, rectifier)

    return replace(refit, how=f"{refit.how}, rectified", fitting=fitting)


def _errors(refits: Sequence[Refit], folds: Sequence[int], error_of: ErrorOf) -> dict[Refit, float]:
    """Squared errors of refits of one truncation, each on folds that it was not fitted to."""
    problem = refits[0].problem
    errors = dict.fromkeys(refits, 0.0)
    for fold in folds:
        given, held = problem.training(without=fold), problem.held_out(fold)
        for refit in refits:
            errors[refit] += error_of(refit, given, held)
    return errors


def _squared_error(refit: Refit, given: FitData, held: FitData) -> float:
    return squared_error(held.rows, refit.fitting(given))


def _mixed_error(refit: Refit, given: FitData, held: FitData) -> float:
    """The squared error of mixtures of the targets, less a constant."""
    return excess_error(held.mixed.rows, refit.mixed_fit(given))


def _rectified_error(rectifier: Rectifier, refit: Refit, given: FitData, held: FitData) -> float:
    return rectified_error(held.chunks, refit.fitting(given), rectifier)


def _energy(held: FitData) -> float:
    return float(held.rows.yy.sum())


def _rectified_energy(rectifier: Rectifier, held: FitData) -> float:
    return rectified_energy(held.chunks, rectifier)


@cache
def _mixing(num_targets: int) -> Tensor:
    """Orthonormal mixtures of targets, ``(mixtures, num_targets)`` in float64.

    Their error is nearly the same share of the error of all targets for every fit (Johnson and
    Lindenstrauss 1984), so that fits can be compared by them.
    """
    generator = torch.Generator().manual_seed(0)
    shape = num_targets, min(_NUM_MIXTURES, num_targets)
    return torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64)).Q.mT
