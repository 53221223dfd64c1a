"""Measure the sensitivity of the model's output to each layer, decomposed one at a time.

The correction of a layer and of a combination of methods is the relative squared error of the model's
output with that layer alone decomposed, over the error that ``error_prediction`` gives. Where decomposed
layers will be repaired, so is this one, on most of the inputs (all its factors where repair will fit all:
``joint_fit``); its error is measured on others.
Methods differ in how much repair wins back: the pointwise kernels of DW+PW have more freedom
than the depthwise ones of PW+DW.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from statistics import median

from torch import Tensor

from decompose.algebra import Deviation, Expression, widened
from decompose.compression.effort import Effort
from decompose.compression.reconstruction.factor_regression import (
    Targets,
    patches_of_each,
    positions_of_each,
    prior_of,
    refitted,
    samples_of,
)
from decompose.compression.reconstruction.joint_fit import (
    are_many,
    can_fit_jointly,
    jointly_fitted,
)
from decompose.compression.reconstruction.moment_sums import MomentSums
from decompose.compression.reconstruction.refit_problem import FitData, RefitProblem
from decompose.compression.reconstruction.ridge import Moments, RidgePath, excess_error
from decompose.compression.score_balance import ScoreBalance
from decompose.compression.search.candidates import Candidate
from decompose.compression.search.quick_truncations import QuickTruncations
from decompose.data.synthetic import are_cheap
from decompose.layers.forward import comparable_outputs, evaluating, largest_batch
from decompose.layers.hooks import replacing
from decompose.layers.modules import to_conv, to_module
from decompose.layers.replay import Recording
from decompose.layers.stepwise_calls import StepwiseCalls
from decompose.layers.survey import Survey
from decompose.methods.pooling import POOL
from decompose.utils.batches import Batches, Example, InputBatches, batch_size, grouped

_SHARE = 0.4
"""Cost at which a layer's methods are measured, as a share of its dense cost."""

_WORTHWHILE = 3.0
"""Methods that lose this many times more than another of their cost are not measured."""

_JOINT_RIDGE = 0.03
"""Of the fit of all factors: as strong as what repair chooses, more or less."""

_RIDGES = (3.0, 0.3, 0.03, 0.003)
_EVERY = 3
"""One in this number of inputs is held out to choose the ridge."""

_HELD, _FITTED, _MANY_FITTED = 4, 12, 44
"""Inputs that errors are measured on, and that repairs are fitted to, at most: more where all factors are
fitted to small ones."""

_ENOUGH_NUMBERS = 2**15
"""Numbers in the outputs of held inputs from which on no further input is measured on: maps have many."""

_NUM_UNREPAIRED = 2
"""Number of combinations that are measured in a layer, where layers are not repaired."""

_LEAST = 1e-8
"""Predicted errors below this are mostly rounding, and are not measured."""

_LARGEST = 1e6
"""Error of outputs that become NaN or infinite: a number that files hold."""


@contextmanager
def measuring_sensitivity(
    survey: Survey, images: Batches, effort: Effort, *, repaired: bool
) -> Iterator[Sensitivity]:
    """Run the model on a few inputs, to measure its sensitivity to one layer after another.

    Args:
        survey: of the model.
        images: unlabelled inputs.
        effort: its settings.
        repaired: whether decomposed layers will be repaired.
    """
    with evaluating(survey.model):
        sensitivity = Sensitivity(survey, images, effort, repaired=repaired)
        with sensitivity.calls or nullcontext():
            yield sensitivity


class Sensitivity:
    """Sensitivity of a model's output to each of its layers; made by ``measuring_sensitivity``."""

    def __init__(self, survey: Survey, images: Batches, effort: Effort, *, repaired: bool) -> None:
        self._survey = survey
        self._num_measured = effort.num_measured if repaired else _NUM_UNREPAIRED
        model, originals = survey.model, survey.layers
        inputs = InputBatches(images, model)
        # Counting reads inputs, which may be files.
        self._are_many = repaired and are_many(inputs)
        if self._are_many:
            # Fitted in all their factors, methods differ less.
            self._num_measured = max(1, self._num_measured - 1)
        num_fitted = _MANY_FITTED if self._are_many and are_cheap(survey.example) else _FITTED
        every = list(islice(inputs, _HELD + (num_fitted if repaired else 0)))
        # A refit is judged on none of the inputs that it was fitted to, where there are two.
        num_held = min(_HELD, max(1, len(every) // 2))
        held = every[:: len(every) // num_held][:num_held] if repaired else every[:2]
        fitted = [x for x in every if not any(x is other for other in held)] or every
        size = largest_batch(model, every)
        self._held: list[tuple[Example, Recording]] = []
        for x in grouped(held, size):
            self._held.append((x, Recording(model, originals, x)))
            if sum(y.numel() for _, r in self._held for y in r.outputs) >= _ENOUGH_NUMBERS:
                break
        self._balance = ScoreBalance.of(self._held[0][1].outputs)
        self._num_fitted = len(fitted)
        self.calls: StepwiseCalls | None = None
        """Of the layers, with the inputs that repairs are fitted to."""
        if repaired:
            together = list(grouped(fitted, min(size, -(-len(fitted) // _EVERY))))
            self.calls = StepwiseCalls(model, originals, survey.num_calls, together)

    def corrections(
        self, name: str, candidates: Sequence[Candidate], truncations: QuickTruncations
    ) -> dict[str, float]:
        """Measure the corrections of the predicted errors of one layer.

        Args:
            name: of the layer.
            candidates: for it, with their predicted errors.
            truncations: of it.

        Returns:
            By label of the choice; labels that were not measured have the median. Empty where nothing
            was measured.
        """
        alone = [candidate for candidate in candidates if _is_decomposition(candidate)]
        chosen = _worth_measuring(alone)[: self._num_measured]
        measured = self._measured(name, chosen, truncations)
        if measured:
            middle = median(measured.values())
            measured = {o.label: measured.get(o.label, middle) for o in alone}
        covering = [candidate for candidate in candidates if candidate.covers]
        pooling = [candidate for candidate in candidates if candidate.label == POOL]
        for others in (_middle_of(covering), _middle_of(pooling)):
            measured |= self._measured(name, others, truncations)
        return measured

    def _measured(
        self, name: str, candidates: Sequence[Candidate], truncations: QuickTruncations
    ) -> dict[str, float]:
        """The errors of the output over the predicted ones, by label."""
        expressions = [truncations.expression(o.choice) for o in candidates if o.choice is not None]
        if not expressions:
            return {}
        # A layer that runs on a mean is left as it is.
        if self.calls is not None and candidates[0].label != POOL:
            jointly = not any(candidate.covers for candidate in candidates)
            wide = [widened(expression) for expression in expressions]
            expressions = self._repaired(name, wide, jointly=jointly)
        return {
            candidate.label: self._output_error(name, e) / candidate.error
            for candidate, e in zip(candidates, expressions, strict=True)
        }

    def _repaired(
        self, name: str, expressions: Sequence[Expression], *, jointly: bool
    ) -> list[Expression]:
        """Expressions instead of a layer, refitted as ``repair`` does, more or less.

        Args:
            name: of the layer.
            expressions: in float32 at least.
            jointly: whether all their factors may be fitted; a selection of channels is none.
        """
        assert self.calls is not None
        conv = to_conv(self._survey.layers[name])
        if jointly and self._are_many and all(can_fit_jointly(e, conv) for e in expressions):
            problem = RefitProblem("", widened(conv))
            most = patches_of_each(problem.num_features, self._num_fitted)
            for x, seen, output in self.calls.of(name):
                problem.add(0, seen, Targets.of(conv, output, most * batch_size(x)))
            # A layer may see nothing finite on these inputs.
            if not problem.folds:
                return list(expressions)
            return jointly_fitted(expressions, problem.training(), _JOINT_RIDGE)
        num_features = max(prior_of(expression).shape[2] for expression in expressions)
        most = positions_of_each(num_features, self._num_fitted)
        calls = [
            (seen, Targets.of(conv, output, most * batch_size(x)))
            for x, seen, output in self.calls.of(name)
        ]
        return [_refitted(expression, calls) for expression in expressions]

    def _output_error(self, name: str, expression: Expression) -> float:
        """Relative squared error of the model's output with one layer decomposed."""
        layer, deviation = self._survey.layers[name], Deviation()
        module = to_module(expression).to(layer.weight)
        for x, recording in self._held:
            with recording.until(name), replacing(layer, module):
                outputs = comparable_outputs(self._survey.model, x)
            pair = map(self._balance.applied, (outputs, recording.outputs))
            for output, reference in zip(*pair, strict=True):
                deviation += Deviation.between(output, reference)
        return min(deviation.relative, _LARGEST)


def _worth_measuring(candidates: Sequence[Candidate]) -> list[Candidate]:
    """One candidate a label, near the share of cost, unless another is far better; the best first."""
    dense = max(candidate.cost for candidate in candidates)
    nearest: dict[str, Candidate] = {}
    for candidate in candidates:
        best = nearest.get(candidate.label)
        if candidate.choice is None or candidate.error < _LEAST:
            continue
        if best is None or _distance(candidate, dense) < _distance(best, dense):
            nearest[candidate.label] = candidate
    hopeful = [candidate for candidate in nearest.values() if not _hopeless(candidate, candidates)]
    return sorted(hopeful, key=lambda candidate: candidate.error)


def _is_decomposition(candidate: Candidate) -> bool:
    """Whether a candidate, or the layer as it is, is judged beside others of its layer."""
    return not candidate.covers and candidate.label != POOL


def _middle_of(found: Sequence[Candidate]) -> list[Candidate]:
    """One candidate of middling cost; none where there are none."""
    worth = [candidate for candidate in found if candidate.error >= _LEAST]
    return sorted(worth, key=lambda candidate: candidate.cost)[len(worth) // 2 :][:1]


def _hopeless(candidate: Candidate, others: Sequence[Candidate]) -> bool:
    return any(o.cost <= candidate.cost and o.error * _WORTHWHILE < candidate.error for o in others)


def _distance(candidate: Candidate, dense: int) -> float:
    return abs(candidate.cost / dense - _SHARE)


def _refitted(wide: Expression, calls: Sequence[tuple[Tensor, Targets]]) -> Expression:
    """The expression with its last factors refitted to the original layer's inputs and outputs."""
    held, others = MomentSums(), MomentSums()
    for index, (x, y) in enumerate(calls):
        (others if index % _EVERY else held).add(*samples_of(wide, x, y))
    prior, rows = prior_of(wide), held.total().cpu()
    if len(calls) == 1:
        return refitted(wide, RidgePath(rows, prior).fit(_RIDGES[0]))
    rest = others.total().cpu()
    ridge = _best_ridge(rows, rest, prior)
    rows += rest
    del held, others, rest  # Sums of many features are large.
    return refitted(wide, RidgePath(rows, prior).fit(ridge))


def _best_ridge(held: Moments, others: Moments, prior: Tensor) -> float:
    """The ridge whose fit to some rows is best on others."""
    given, judged = (FitData(rows, [], prior).compared for rows in (others, held))
    return min(_RIDGES, key=lambda ridge: excess_error(judged.rows, given.ridge_path.fit(ridge)))
