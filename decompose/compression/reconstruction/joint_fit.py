"""Fit all factors of a layer together, so that it makes of its inputs what it should.

With the patches z that the layer reads, W* the ridge regression of the wanted outputs on them, pulled
towards the layer's own kernel, and K the kernel that the factors compose to, minimise over all factors

    tr((K - W*) (C + ridge d I) (K - W*)^T),

C the covariance of z and d its mean variance (``ridge``): the squared error of the outputs and of the pull
on K, less a constant. A step costs the same for any number of inputs. L-BFGS goes down from the truncation,
from the strongest pull to weaker ones, as long as inputs held out gain.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from math import inf
from typing import Any

import torch
from torch import Tensor

from decompose.algebra import (
    ComposedKernel,
    Conv,
    Expression,
    balanced,
    compose,
    last_factors,
    leaves,
    map_leaves,
    merged,
    scale_outputs,
    split_like,
)
from decompose.compression.reconstruction.cross_validation import (
    ROUNDING,
    BestRefit,
    relative_error,
)
from decompose.compression.reconstruction.lbfgs import minimized
from decompose.compression.reconstruction.refit_problem import FitData, RefitProblem
from decompose.compression.reconstruction.relu_regression import rectified_fit
from decompose.compression.reconstruction.ridge import (
    Fit,
    Moments,
    RidgePath,
    excess_error,
    shift_fit,
)
from decompose.layers.relu import Rectifier

JOINT_RIDGES = (1.0, 0.1, 0.01)
"""Pulls towards the layer's own kernel that are tried, one after another."""

_STEPS, _STEPS_AGAIN, _STEPS_ALONE = 6, 4, 8
"""Of L-BFGS with each pull, from where the last one ended; with the same pull on other rows; and with one
pull alone."""

_ROUNDS = 2
"""Of targets moved to where a ReLU cuts off, and all factors fitted to them."""

FEWEST_INPUTS = 32
"""Fewer do not show how the numbers of a patch vary together: then the last factors alone are refitted."""

_MOST_FEATURES = 1152
"""Numbers of a patch above which a step takes too long: 3 x 3 taps of 128 channels."""


def can_fit_jointly(expression: Expression, conv: Conv) -> bool:
    """Whether factors compose to a kernel like their layer's, whose patches are not too large.

    Args:
        expression: the factors.
        conv: the layer.
    """
    if conv.weight[0].numel() > _MOST_FEATURES:
        return False
    biases = [leaf for leaf in leaves(expression) if leaf.bias is not None]
    last = [factor.conv for factor in last_factors(expression) if factor.conv.bias is not None]
    if conv.geometry.transposed or len(biases) > len(last):
        return False
    try:
        composed = compose(expression)
    except ValueError:
        return False
    return composed.groups == conv.groups and composed.weight.shape == conv.weight.shape


def best_joint_fit(
    problem: RefitProblem, start: Expression, unchanged: Expression, *, is_rectified: bool
) -> BestRefit:
    """Choose the fit of all factors by inputs held out.

    Args:
        problem: of the layer itself: its patches, and the outputs wanted.
        start: its factors, as truncated.
        unchanged: the factors as they are.
        is_rectified: whether outputs that a ReLU cuts off are left free.
    """
    if len(problem.folds) < 2:
        return BestRefit("left", None, 0.0, 0.0)
    judging = problem.folds[0]
    given, held = _quick(problem.training(without=judging)), problem.held_out(judging)
    before = relative_error(_fit_of(unchanged, problem), held, problem.rectifier)
    if before <= ROUNDING:
        return BestRefit("left", None, before, before)
    best, ridge = _best_ridge(_prepared(start), given, held)
    after = relative_error(best.fit, held, problem.rectifier)
    if not after < before:
        return BestRefit("left", None, before, before)
    every = given + held
    found = joint_fit(best.factors, every.ridge_path, ridge, steps=_STEPS_AGAIN)
    how = f"all factors, ridge {ridge:g}"
    if is_rectified and problem.rectifier is not None:
        found, how = _rectified(found, every, ridge, problem.rectifier), f"{how}, rectified"
    return BestRefit(how, _like(start, found), before, after)


def jointly_fitted(starts: Iterable[Expression], data: FitData, ridge: float) -> list[Expression]:
    """Fit all factors of several expressions instead of one layer, with one pull.

    Args:
        starts: the expressions.
        data: of a problem of the layer itself.
        ridge: the pull.
    """
    path = _quick(data).ridge_path
    return [
        _like(start, joint_fit(_prepared(start), path, ridge, steps=_STEPS_ALONE))
        for start in starts
    ]


def are_many(inputs: Iterable[Any]) -> bool:
    """Whether inputs are enough to fit all factors."""
    return sum(1 for _ in islice(inputs, FEWEST_INPUTS)) == FEWEST_INPUTS


def _prepared(start: Expression) -> Expression:
    """The factors to go on from.

    Sums lie on the CPU, and steps of small matrices are quicker there. One wide chain is composed in one
    product, its branches in one each.
    """
    return _moved(balanced(merged(start)), torch.device("cpu"))


def _like(start: Expression, found: JointFit) -> Expression:
    """The factors found, with the structure and on the device of those that were prepared."""
    bias = found.fit.bias.flatten()
    factors = split_like(scale_outputs(found.factors, torch.ones_like(bias), bias), start)
    return _moved(factors, next(leaves(start)).weight.device)


def _fit_of(expression: Expression, problem: RefitProblem) -> Fit:
    """The kernel and bias that factors compose to, as a fit of the outputs to patches."""
    groups, outputs = problem.prior.shape[:2]
    composed = compose(expression)
    bias = composed.weight.new_zeros(groups * outputs) if composed.bias is None else composed.bias
    return Fit(_kernel(composed, groups).double().cpu(), bias.view(groups, -1).double().cpu())


def _quick(data: FitData) -> FitData:
    """The same, with equations solved in the precision of the steps."""
    return replace(data, dtype=torch.float32)


def _moved(expression: Expression, device: torch.device) -> Expression:
    def moved(leaf: Conv) -> Conv:
        bias = None if leaf.bias is None else leaf.bias.to(device)
        return replace(leaf, weight=leaf.weight.to(device), bias=bias)

    return map_leaves(moved, expression)


@dataclass(frozen=True, eq=False)
class JointFit:
    """All factors of a layer, fitted together.

    Attributes:
        factors: without a bias.
        fit: the kernel that they compose to, and its bias.
    """

    factors: Expression
    fit: Fit


@torch.no_grad()
def joint_fit(
    start: Expression,
    path: RidgePath,
    ridge: float,
    rows: Moments | None = None,
    *,
    steps: int,
) -> JointFit:
    """Fit all factors with one pull.

    Args:
        start: the factors to begin with, on the CPU.
        path: the ridge regressions of the wanted outputs on the layer's patches.
        ridge: the pull, positive, without unit.
        rows: the same patches with other outputs; those of the path by default.
        steps: of L-BFGS, at most.
    """
    rows = rows or path.rows
    wanted, metric = (part.float() for part in (path.fit(ridge, rows).weights, path.metric(ridge)))
    energy = float(((wanted @ metric) * wanted).sum()) or 1.0

    composed = ComposedKernel(start)

    def loss(point: Tensor) -> tuple[float, Tensor]:
        kernel, gradients_of = composed(point)
        error = kernel.reshape(wanted.shape) - wanted
        product = error @ metric
        value = float(torch.dot(product.flatten(), error.flatten())) / energy
        return value, gradients_of(product.view(kernel.shape)) * (2 / energy)

    first = torch.cat([leaf.weight.flatten() for leaf in leaves(start)])
    point = minimized(loss, first, steps)
    factors = _with_weights(start, point)
    return JointFit(factors, shift_fit(rows, _kernel(factors, len(rows.z)).double()))


def _best_ridge(start: Expression, given: FitData, held: FitData) -> tuple[JointFit, float]:
    """Fit with weaker and weaker pulls, as long as data held out gain; the last that did."""
    best, least, factors = None, inf, start
    for ridge in JOINT_RIDGES:
        found = joint_fit(factors, given.ridge_path, ridge, steps=_STEPS)
        error = excess_error(held.rows, found.fit)
        if best is not None and error >= least:
            break
        best, least, factors = (found, ridge), error, found.factors
    assert best is not None
    return best


def _rectified(start: JointFit, given: FitData, ridge: float, rectifier: Rectifier) -> JointFit:
    """The same fit, with outputs that the ReLU cuts off left free."""
    found = start

    def refit(rows: Moments) -> Fit:
        nonlocal found
        found = joint_fit(found.factors, given.ridge_path, ridge, rows, steps=_STEPS_AGAIN)
        return found.fit

    rectified_fit(given.rows, given.chunks, refit, start.fit, rectifier, rounds=_ROUNDS)
    return found


def _with_weights(expression: Expression, vector: Tensor) -> Expression:
    """The expression with the weights of its factors taken from a vector, and no bias."""
    parts = iter(vector.split([leaf.weight.numel() for leaf in leaves(expression)]))
    return map_leaves(
        lambda leaf: replace(leaf, weight=next(parts).view_as(leaf.weight), bias=None), expression
    )


def _kernel(expression: Expression, groups: int) -> Tensor:
    """The kernel that factors compose to, ``(groups, O / groups, F)``."""
    return compose(expression).weight.flatten(1).unflatten(0, (groups, -1))
