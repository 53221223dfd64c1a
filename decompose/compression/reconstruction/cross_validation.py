"""Choose the refit of a layer that is best on inputs held out.

The inputs fall into four folds; a refit is judged on each fold by its fit to the other three. Aids, such
as synthetic inputs, help to fit, and never judge. Whether they help is not decided on folds: the inputs
that earlier layers were fitted to look better than new ones will, so that they favour too close a fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf

from decompose.algebra import Expression
from decompose.compression.reconstruction.factor_regression import refitted
from decompose.compression.reconstruction.refit_problem import (
    FitData,
    LayerError,
    Refit,
    RefitProblem,
)
from decompose.compression.reconstruction.relu_regression import (
    rectified_energy,
    rectified_error,
    rectified_fit,
)
from decompose.compression.reconstruction.ridge import (
    Fit,
    excess_error,
    scale_fit,
    shift_fit,
    squared_error,
)
from decompose.layers.relu import Rectifier

RIDGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Pulls towards the truncated factor that are tried, beside infinity: every second one, then those
beside the best."""

_MOST_JUDGED = 4096
"""Features times folds that judge, more or less: a fit takes the cube of the features."""

_LEAST_KEPT = 32
"""Kept rows for each unknown, from which on what a rectifier cuts off is left free."""

ROUNDING = 1e-7
"""Relative squared error that rounding makes."""


ErrorOf = Callable[[Refit, FitData, FitData], float]
"""From a refit, what it is fitted to, and what it is judged on, to its squared error there."""


@dataclass(frozen=True, eq=False)
class BestRefit:
    """The best refit on inputs held out.

    Attributes:
        how: ``left`` where none is better than to leave the layer as it is.
        expression: the layer's factors, refitted; ``None`` where it is left.
        before: relative squared error of the layer as it is; where a rectifier follows, of what
            goes on.
        after: the same on inputs held out, refitted.
    """

    how: str
    expression: Expression | None
    before: float
    after: float


def best_refit(problem: RefitProblem, unchanged: LayerError, *, is_rectified: bool) -> BestRefit:
    """Choose the best refit of a layer by cross-validation.

    Args:
        problem: a truncation of the layer.
        unchanged: the error of the layer as it is, on the same inputs.
        is_rectified: whether a refit is also tried that leaves free what a rectifier cuts off.
    """
    before, folds = unchanged.relative, folds_to_judge(problem, unchanged)
    if not folds:
        return BestRefit("left", None, before, before)
    refits = [_best_by_squares(problem)]
    error_of, energy_of, rectifier = _squared_error, _energy, problem.rectifier
    if rectifier is not None:
        error_of = partial(_rectified_error, rectifier)
        energy_of = partial(_rectified_energy, rectifier)
        many = problem.num_kept > _LEAST_KEPT * problem.num_features
        if is_rectified and refits[0].ridge is not None and many:
            refits.append(_rectified(refits[0], refits[0].ridge, rectifier))
    judging = _few(folds, problem)
    errors = _errors(refits, judging, error_of)
    energy = sum(energy_of(problem.held_out(fold)) for fold in judging)
    best = min(errors, key=errors.__getitem__)
    after = errors[best] / energy if energy else before
    if not after < before:
        return BestRefit("left", None, before, before)
    return BestRefit(best.how, refitted(problem.expression, best.fit()), before, after)


def folds_to_judge(problem: RefitProblem, unchanged: LayerError) -> Sequence[int]:
    """The folds on which refits and the layer as it is can be compared; none where it is to be left.

    Inputs of the layer may not be finite, but for one fold at most, or it may have lost nothing.
    """
    if len(problem.folds) < 2 or unchanged.relative <= ROUNDING:
        return []
    return [fold for fold in unchanged.folds if fold in problem.folds]


def relative_error(fit: Fit, held: FitData, rectifier: Rectifier | None) -> float:
    """Squared error of a fit on data held out, relative to their energy; behind a ReLU that follows."""
    if rectifier is None:
        error, energy = squared_error(held.rows, fit), _energy(held)
    else:
        error = rectified_error(held.chunks, fit, rectifier)
        energy = _rectified_energy(rectifier, held)
    return error / energy if energy else inf


def _best_by_squares(problem: RefitProblem) -> Refit:
    """Choose the refit of the least squared error, its ridge in two rounds."""
    folds = _few(problem.folds, problem)
    error_of = _mixed_error if problem.has_many_targets else _squared_error
    errors = _errors(_first_refits(problem), folds, error_of)
    best = min(errors, key=errors.__getitem__)
    if best.ridge is not None:
        index = RIDGES.index(best.ridge)
        beside = (RIDGES[index - 1], *RIDGES[index + 1 : index + 2])
        errors |= _errors([_ridge(problem, ridge) for ridge in beside], folds, error_of)
    return min(errors, key=errors.__getitem__)


def _few(folds: Sequence[int], problem: RefitProblem) -> Sequence[int]:
    """As many of the folds as may judge: fewer of many features."""
    return folds[: max(1, _MOST_JUDGED // problem.num_features)]


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
        again = partial(given.ridge_path.fit, ridge)
        return rectified_fit(given.rows, given.chunks, again, start, rectifier)

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
