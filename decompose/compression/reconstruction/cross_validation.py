"""Which refit of a layer serves inputs that it has not seen.

The inputs fall into four folds; a way of fitting is judged on each by its fit to the other three.
Aids, inputs that are not of the kind that counts, help to fit, and never judge. Whether they help is
not put to the vote: inputs that earlier layers were fitted to look better than new ones will, so that
their vote is for too close a fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from operator import add

import torch
from torch import Tensor

from decompose.algebra import Expression, bias_of
from decompose.compression.reconstruction.last_factors import Targets, prior_of, samples_of
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
    scale_fit,
    shift_fit,
    squared_error,
)
from decompose.layers.relu import Rectifier

RIDGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Pulls towards the truncated factor that are tried, beside infinity: every second one, then those
beside the best."""

NUM_FOLDS = 4

_ROUNDING = 1e-7
"""Relative squared error that rounding makes."""


@dataclass(frozen=True, eq=False)
class FitData:
    """What a fit is made from.

    Attributes:
        rows: sums over all rows.
        portions: some of the rows, where a rectifier follows.
        prior: the last factors as truncated.
    """

    rows: Moments
    portions: Sequence[RowChunk]
    prior: Tensor

    @cached_property
    def ridge_path(self) -> RidgePath:
        """The ridge regressions on these rows."""
        return RidgePath(self.rows, self.prior)


Fitting = Callable[[FitData], Fit]

ErrorOf = Callable[[Moments, Sequence[RowChunk], Fit], float]
"""From the sums over rows, some of the rows, and a fit to its squared error on them."""


class RefitProblem:
    """One truncation of a layer, and what is known of the refit of its last factors.

    Args:
        label: for reports.
        expression: in float32 at least.
        rectifier: what follows the layer.
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
        self._rows: list[Moments | None] = [None] * NUM_FOLDS
        self._kept = [RowSample() for _ in range(NUM_FOLDS)]
        self._aid: Moments | None = None
        self._training: dict[int | None, FitData] = {}
        self._folds: list[tuple[Moments, list[RowChunk]]] = []
        self._aid_kept = RowSample()

    def add(self, fold: int | None, seen: Tensor, wanted: Targets) -> None:
        """Add inputs of the layer, and the outputs that it should have.

        Args:
            fold: that the inputs belong to; ``None`` of aids.
            seen: the layer's input.
            wanted: the original's output.
        """
        if fold is None:
            self._aid = self._added(self._aid, self._aid_kept, seen, wanted)
            return
        self._rows[fold] = self._added(self._rows[fold], self._kept[fold], seen, wanted)

    def _added(
        self, held: Moments | None, keeper: RowSample, seen: Tensor, wanted: Targets
    ) -> Moments | None:
        portion = samples_of(self.expression, seen, wanted)
        if not portion[0].shape[1]:
            return held
        if self.rectifier is not None:
            keeper.add(portion)
        rows = Moments.of(*portion)
        return rows if held is None else held + rows

    def training(self, *, without: int | None = None) -> FitData:
        """All that was added, or all but one fold; nothing is added after the first call."""
        if without not in self._training:
            self._training[without] = self._gathered(without)
        return self._training[without]

    def _gathered(self, without: int | None) -> FitData:
        folds = [fold for index, fold in enumerate(self.folds()) if index != without]
        if self._aid is not None:
            folds.append((self._aid.cpu(), [p for _, p in self._aid_kept.portions]))
        rows = reduce(add, (rows for rows, _ in folds))
        return FitData(rows, [p for _, kept in folds for p in kept], self.prior)

    def folds(self) -> list[tuple[Moments, list[RowChunk]]]:
        """Sums and kept rows of each fold that has any; nothing is added after the first call."""
        if not self._folds:
            self._folds = [
                (rows.cpu(), [p for _, p in kept.portions])
                for rows, kept in zip(self._rows, self._kept, strict=True)
                if rows is not None
            ]
        return self._folds


@dataclass(frozen=True, eq=False)
class Refit:
    """A way to refit a layer.

    Attributes:
        how: in words.
        draft: what it starts from.
        fitting: makes the fit.
        ridge: its pull, of a ridge regression.
    """

    how: str
    draft: RefitProblem
    fitting: Fitting
    ridge: float | None = None

    def fit(self) -> Fit:
        """The fit to everything."""
        return self.fitting(self.draft.training())


@dataclass(frozen=True, eq=False)
class BestRefit:
    """The way that is best on inputs held out.

    Attributes:
        way: ``None`` where none is better than to leave the layer as it is.
        before: relative squared error of the layer as it is; where a rectifier follows, of what
            goes on.
        after: the same on inputs held out, refitted.
    """

    way: Refit | None
    before: float
    after: float


def judge_ways(drafts: Sequence[RefitProblem]) -> BestRefit:
    """Find the best refit.

    Args:
        drafts: truncations of one layer that have seen the same inputs; the first is the layer as
            it is.
    """
    if len(drafts[0].folds()) < 2:
        # What the layer sees is not finite, but for one input at most.
        return BestRefit(None, 0.0, 0.0)
    asis = _as_truncated(drafts[0])
    trials = {way: error for draft in drafts for way, error in _tried(_first_ways(draft)).items()}
    best = min(trials, key=trials.__getitem__)
    if best.ridge is not None:
        index = RIDGES.index(best.ridge)
        beside = (RIDGES[index - 1], *RIDGES[index + 1 : index + 2])
        trials |= _tried([_ridge_way(best.draft, ridge) for ridge in beside])
        best = min(trials, key=trials.__getitem__)
    finalists = _tried([asis]) | {best: trials[best]}
    energy = sum(float(rows.yy.sum()) for rows, _ in drafts[0].folds())
    if rectifier := best.draft.rectifier:
        judge = partial(_rectified_error, rectifier)
        refined = [] if best.ridge is None else [_refined(best, best.ridge, rectifier)]
        finalists = _tried([asis], judge) | _tried([best, *refined], judge)
        energy = sum(rectified_energy(kept, rectifier) for _, kept in drafts[0].folds())
    winner = min(finalists, key=finalists.__getitem__)
    hopeless = finalists[winner] >= finalists[asis] or finalists[asis] <= _ROUNDING * energy
    if energy == 0 or hopeless:
        before = finalists[asis] / energy if energy else 0.0
        return BestRefit(None, before, before)
    return BestRefit(winner, finalists[asis] / energy, finalists[winner] / energy)


def _first_ways(draft: RefitProblem) -> list[Refit]:
    """Ways to refit a draft: all but every second ridge."""
    ways = [
        Refit(f"{draft.label}bias", draft, lambda given: shift_fit(given.rows, given.prior)),
        Refit(f"{draft.label}scale", draft, lambda given: scale_fit(given.rows, given.prior)),
        _as_truncated(draft),
    ]
    has_one_feature = draft.prior.shape[2] == 1
    return ways if has_one_feature else ways + [_ridge_way(draft, r) for r in RIDGES[1::2]]


def _as_truncated(draft: RefitProblem) -> Refit:
    return Refit(f"{draft.label}not refitted", draft, lambda _: draft.untouched)


def _ridge_way(draft: RefitProblem, ridge: float) -> Refit:
    how = f"{draft.label}ridge {ridge:g}"
    return Refit(how, draft, lambda given: given.ridge_path.fit(ridge), ridge)


def _refined(way: Refit, ridge: float, rectifier: Rectifier) -> Refit:
    """The same with what the rectifier cuts off left free."""

    def fitting(given: FitData) -> Fit:
        start = way.fitting(given)
        return rectified_fit(given.rows, given.portions, given.ridge_path, ridge, start, rectifier)

    return replace(way, how=f"{way.how}, rectified", fitting=fitting)


def _squared_error(rows: Moments, _: Sequence[RowChunk], fit: Fit) -> float:
    return squared_error(rows, fit)


def _rectified_error(
    rectifier: Rectifier, _: Moments, portions: Sequence[RowChunk], fit: Fit
) -> float:
    return rectified_error(portions, fit, rectifier)


def _tried(ways: Sequence[Refit], judge: ErrorOf = _squared_error) -> dict[Refit, float]:
    """Squared errors of ways of one draft, by the fits to all folds but one."""
    draft = ways[0].draft
    errors = dict.fromkeys(ways, 0.0)
    for index, (rows, portions) in enumerate(draft.folds()):
        given = draft.training(without=index)
        for way in ways:
            errors[way] += judge(rows, portions, way.fitting(given))
    return errors
