"""Fit all factors of a layer together, so that it makes of its inputs what it should.

With the patches z that the layer reads, W* the ridge regression of the wanted outputs on them, pulled
towards the layer's own kernel, and K the kernel that the factors compose to, minimise over all factors

    tr((K - W*) (C + ridge d I) (K - W*)^T),

C the covariance of z and d its mean variance (``ridge``): the squared error of the outputs and of the pull
on K, less a constant. A step costs the same for any number of inputs. L-BFGS goes down from the truncation,
from the strongest pull to weaker ones, as long as inputs held out gain.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import torch
from scipy.optimize import minimize
from torch import Tensor

from decompose.algebra import (
    Conv,
    Expression,
    balanced,
    compose,
    last_factors,
    leaves,
    map_leaves,
    scale_outputs,
)
from decompose.compression.reconstruction.cross_validation import (
    BestRefit,
    folds_to_judge,
    relative_error,
)
from decompose.compression.reconstruction.refit_problem import FitData, LayerError, RefitProblem
from decompose.compression.reconstruction.ridge import Fit, RidgePath, excess_error, shift_fit

JOINT_RIDGES = (1.0, 0.1, 0.01)
"""Pulls towards the layer's own kernel that are tried, one after another."""

_STEPS = 10
"""Of L-BFGS with each pull, from where the last one ended."""

_MOST_FEATURES = 1152
"""Numbers of a patch above which a step takes too long: 3 x 3 taps of 128 channels."""


def can_fit_jointly(expression: Expression, conv: Conv) -> bool:
    """Whether factors compose to a kernel like their layer's, whose patches are not too large.

    Args:
        expression: the factors.
        conv: the layer.
    """
    biases = [leaf for leaf in leaves(expression) if leaf.bias is not None]
    last = [factor.conv for factor in last_factors(expression) if factor.conv.bias is not None]
    if conv.geometry.transposed or len(biases) > len(last):
        return False
    try:
        composed = compose(expression)
    except ValueError:
        return False
    alike = composed.groups == conv.groups and composed.weight.shape == conv.weight.shape
    return alike and conv.weight[0].numel() <= _MOST_FEATURES


def best_joint_fit(problem: RefitProblem, start: Expression, unchanged: LayerError) -> BestRefit:
    """Choose the fit of all factors by inputs held out.

    Args:
        problem: of the layer itself: its patches, and the outputs wanted.
        start: its factors, as truncated.
        unchanged: the error of the layer as it is, on the same inputs.
    """
    before, folds = unchanged.relative, folds_to_judge(problem, unchanged)
    if not folds:
        return BestRefit("left", None, before, before)
    given, held = problem.training(without=folds[0]), problem.held_out(folds[0])
    start = balanced(start)
    best, best_fit, ridge, least = start, problem.untouched, JOINT_RIDGES[0], inf
    found = start
    for tried in JOINT_RIDGES:
        found = joint_fit(found, given.ridge_path, tried)
        fit = _as_fit(found, given)
        if (error := excess_error(held.rows, fit)) >= least:
            break
        best, best_fit, ridge, least = found, fit, tried, error
    after = relative_error(best_fit, held, problem.rectifier)
    if not after < before:
        return BestRefit("left", None, before, before)
    every = problem.training()
    best = joint_fit(best, every.ridge_path, ridge)
    bias = _as_fit(best, every).bias.flatten()
    fitted = scale_outputs(best, torch.ones_like(bias), bias)
    return BestRefit(f"all factors, ridge {ridge:g}", fitted, before, after)


def joint_fit(start: Expression, path: RidgePath, ridge: float) -> Expression:
    """Fit all factors with one pull.

    Args:
        start: the factors to begin with; their bias is left out.
        path: the ridge regressions of the wanted outputs on the layer's patches.
        ridge: the pull, positive, without unit.
    """
    wanted, metric = (part.float() for part in (path.fit(ridge).weights, path.metric(ridge)))
    energy = float(((wanted @ metric) * wanted).sum()) or 1.0

    def loss(point: Any) -> tuple[float, Any]:
        vector = torch.from_numpy(point).float().requires_grad_()
        with torch.enable_grad():
            kernel = _kernel(_with_weights(start, vector), len(wanted))
            error = kernel.detach() - wanted
            product = error @ metric
            (gradient,) = torch.autograd.grad(kernel, vector, 2 / energy * product)
        return float((product * error).sum()) / energy, gradient.double().numpy()

    first = torch.cat([leaf.weight.flatten() for leaf in leaves(start)]).double()
    options = {"maxiter": _STEPS}
    found = minimize(loss, first.numpy(), method="L-BFGS-B", jac=True, options=options)
    return _with_weights(start, torch.from_numpy(found.x).to(next(leaves(start)).weight))


def _with_weights(expression: Expression, vector: Tensor) -> Expression:
    """The expression with the weights of its factors taken from a vector, and no bias."""
    parts = iter(vector.split([leaf.weight.numel() for leaf in leaves(expression)]))
    return map_leaves(
        lambda leaf: replace(leaf, weight=next(parts).view_as(leaf.weight), bias=None), expression
    )


def _kernel(expression: Expression, groups: int) -> Tensor:
    """The kernel that factors compose to, ``(groups, O / groups, F)``."""
    return compose(expression).weight.flatten(1).unflatten(0, (groups, -1))


def _as_fit(expression: Expression, given: FitData) -> Fit:
    """The kernel that factors compose to, and the bias that is best on some data."""
    return shift_fit(given.rows, _kernel(expression, len(given.rows.z)).double())
