"""Channel and spatial decomposition by regression on the original's responses.

Zhang, Zou, He, Sun: "Accelerating Very Deep Convolutional Networks for Classification and Detection",
TPAMI 2016 (arXiv 1505.06798). With a layer's response y in the original model, and the response
``y^`` of its kernel W to its input once the layers before it are decomposed, find M of rank r

    min sum |r(y) - r(M y^ + b)|^2,     M = P Q,  P (O, r), Q (r, O).

Then ``Q W`` are the r filters and P mixes them. Without the rectifier r it is a reduced-rank
regression, the truncated GSVD of section 3.3; where y^ = y, the principal components of y, section
3.1. With it (section 3.2) an auxiliary output z comes between,

    min sum |r(y) - r(z)|^2 + lambda |z - M y^ - b|^2,

alternating: z in closed form at every position, M by reduced-rank regression on z; lambda grows.

Spatial decomposition (Jaderberg et al., BMVC 2014, arXiv 1405.3866, section 3.2) is truncated as a
kernel and its second factor refitted to the responses. They refine both factors by gradient
descent; here the second one has its best in closed form.

Where the paper's data are ample, ours may be few: everything is pulled a little towards the
result without data, M = 1 or the truncated factor, by a ridge in the units of ``ridge``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from decompose.algebra import (
    Chain,
    Conv,
    Expression,
    Geometry,
    bias_of,
    features,
    last_factors,
    last_weights,
    on_patches,
    run,
    with_last_weights,
)
from decompose.compression.layerwise.sampling import Samples
from decompose.compression.reconstruction.relu_regression import rectified_fit
from decompose.compression.reconstruction.ridge import Moments, RidgePath
from decompose.layers.relu import Rectifier
from decompose.methods import get_method

PENALTIES = (0.01, 1.0)
"""The values of lambda, which the paper takes from 0.01 to 1."""

ROUNDS = 25
"""Alternations with each of them."""

RIDGE = 1e-2


@dataclass(frozen=True, eq=False)
class LowRankFit:
    """Fit of a low-rank regression: ``y = mixing @ weights @ x + bias``, in float64.

    Attributes:
        mixing: P, ``(O, r)``, with orthonormal columns where no rectifier follows.
        weights: Q, ``(r, F)``.
        bias: ``(O,)``.
    """

    mixing: Tensor
    weights: Tensor
    bias: Tensor

    def predict(self, x: Tensor) -> Tensor:
        """Predict outputs ``(n, O)`` from inputs ``(n, F)``."""
        return x @ self.weights.to(x).T @ self.mixing.to(x).T + self.bias.to(x)


class ReducedRank:
    """Reduced-rank regressions on the same inputs, O(n F (F + O) + F^3 + O^3) each.

    Minimises ``sum |y - M x - b|^2 + n ridge d |M - M_0|^2`` over M of rank r, where d is the mean
    variance of x. With C its covariance and B that of y and x, both with the ridge's part added, that
    is ``M = U_r U_r^T B C^-1``, where U_r holds the first eigenvectors of ``B C^-1 B^T``.

    Args:
        x: ``(n, F)``.
        prior: M_0, ``(O, F)``.
        ridge: positive, without unit.
    """

    def __init__(self, x: Tensor, prior: Tensor, ridge: float) -> None:
        self._x, self._mean = x, x.mean(0)
        centred = x - self._mean
        covariance = (centred.T @ centred).double() / len(x)
        pull = ridge * covariance.diagonal().mean().clamp_min(torch.finfo(x.dtype).tiny)
        self._pulled = pull * prior.double()
        covariance.diagonal().add_(pull)
        self._root = torch.linalg.cholesky(covariance)

    def fit(self, y: Tensor, rank: int) -> LowRankFit:
        """Fit targets ``(n, O)`` with a rank."""
        mean = y.mean(0)
        cross = ((y - mean).T @ (self._x - self._mean)).double() / len(y) + self._pulled
        fitted = torch.linalg.solve_triangular(self._root, cross.T, upper=False)
        first = torch.linalg.eigh(fitted.T @ fitted).eigenvectors.flip(1)[:, :rank]
        weights = torch.linalg.solve_triangular(self._root.T, fitted @ first, upper=True).T
        bias = mean.double() - first @ (weights @ self._mean.double())
        return LowRankFit(first, weights, bias)


def rectified_reduced_rank(
    x: Tensor,
    y: Tensor,
    rank: int,
    prior: Tensor,
    rectifier: Rectifier,
    ridge: float,
    rounds: int = ROUNDS,
    penalties: Sequence[float] = PENALTIES,
) -> LowRankFit:
    """Reduced-rank regression on targets behind a ReLU.

    Args:
        x: ``(n, F)``.
        y: ``(n, O)``.
        rank: r.
        prior: M_0, ``(O, F)``.
        rectifier: of the ReLU that follows.
        ridge: as for ``ReducedRank``.
        rounds: alternations with each penalty.
        penalties: lambda, growing.
    """
    # In the coordinates that the rectifier cuts at zero; a channel that it lets nothing of
    # through keeps its own.
    slope = torch.where(rectifier.slope != 0, rectifier.slope, 1.0).to(y)
    offset = rectifier.offset.to(y)
    scale, shift = slope.double(), offset.double()
    read = y * slope + offset
    regression = ReducedRank(x, scale.unsqueeze(1) * prior.double(), ridge)
    fit = regression.fit(read, rank)
    for penalty in penalties:
        for _ in range(rounds):
            fit = regression.fit(auxiliary(read, fit.predict(x), penalty), rank)
    mixing = fit.mixing / scale.unsqueeze(1)
    return LowRankFit(mixing, fit.weights, (fit.bias - shift) / scale)


def auxiliary(wanted: Tensor, given: Tensor, penalty: float) -> Tensor:
    """The z that minimises ``(r(wanted) - r(z))^2 + penalty (z - given)^2``, r cutting at zero.

    Args:
        wanted: ``(n, O)``.
        given: ``(n, O)``.
        penalty: positive.
    """
    target = wanted.clamp_min(0)
    off = given.clamp_max(0)
    on = ((penalty * given + target) / (penalty + 1)).clamp_min(0)
    off_loss = target.square() + penalty * (off - given).square()
    on_loss = (on - target).square() + penalty * (on - given).square()
    return torch.where(off_loss < on_loss, off, on)


def decompose_channels(
    expression: Expression,
    samples: Samples,
    rank: int,
    rectifier: Rectifier | None = None,
    *,
    ridge: float = RIDGE,
    rounds: int = ROUNDS,
) -> Chain:
    """Decompose a layer's last kernel by channels, from data.

    Args:
        expression: a convolution, or a chain that ends in one, of one group.
        samples: of the layer.
        rank: r, from 1 to O.
        rectifier: of the ReLU that follows the layer, if one does.
        ridge: pull towards M = 1.
        rounds: alternations with each penalty, where a rectifier follows.

    Returns:
        The expression with its last kernel ``O x ...`` as ``r x ...`` and a pointwise ``O x r``.

    Raises:
        ValueError: the expression does not end in one convolution of one group, or the rank is out
            of bounds.
    """
    last = _only_last(expression)
    if not 1 <= rank <= last.out_channels:
        raise ValueError(f"rank {rank} is out of bounds: it is 1 to {last.out_channels}")
    bias = bias_of(expression)
    response = _responses(expression, samples.patches)
    response = response if bias is None else response - bias.to(response)
    eye = torch.eye(last.out_channels, dtype=torch.float64)
    if rectifier is None:
        fit = ReducedRank(response, eye, ridge).fit(samples.targets, rank)
    else:
        fit = rectified_reduced_rank(
            response, samples.targets, rank, eye, rectifier, ridge, rounds=rounds
        )
    weight = last.weight
    filters = torch.einsum("ro,o...->r...", fit.weights.to(weight), weight)
    mixing = fit.mixing.to(weight).reshape(*fit.mixing.shape, *[1] * (weight.ndim - 2))
    pointwise = Conv(mixing.contiguous(), fit.bias.to(weight), Geometry.pointwise(weight.ndim - 2))
    before = () if isinstance(expression, Conv) else expression.parts[:-1]
    return Chain(*before, replace(last, weight=filters.contiguous(), bias=None), pointwise)


def decompose_spatially(
    conv: Conv,
    samples: Samples,
    rank: int,
    rectifier: Rectifier | None = None,
    *,
    ridge: float = RIDGE,
) -> Expression:
    """Decompose a layer spatially, and refit its second factor to data.

    Args:
        conv: the layer.
        samples: of it.
        rank: r.
        rectifier: of the ReLU that follows the layer, if one does.
        ridge: pull towards the truncated factor.
    """
    return refit_last(get_method("spatial")(conv, rank), samples, rectifier, ridge=ridge)


def refit_last(
    expression: Expression,
    samples: Samples,
    rectifier: Rectifier | None = None,
    *,
    ridge: float = RIDGE,
) -> Expression:
    """Refit an expression's last factors and bias to the targets.

    Args:
        expression: whose last factors have as many groups each.
        samples: of the layer.
        rectifier: of the ReLU that follows the layer, if one does; outputs that it cuts off are free.
        ridge: pull towards the factors as they are.
    """
    conv = last_factors(expression)[0].conv
    seen = features(on_patches(expression), samples.patches)
    wanted = samples.targets.unflatten(1, (conv.groups, -1)).transpose(0, 1)
    rows, prior = Moments.of(seen, wanted).cpu(), last_weights(expression).double().cpu()
    path = RidgePath(rows, prior)
    fit = path.fit(ridge)
    if rectifier is not None:
        following = rectifier.by_group(conv.groups)
        again = partial(path.fit, ridge)
        fit = rectified_fit(rows, [(seen, wanted)], again, fit, following)
    weight = conv.weight
    return with_last_weights(expression, fit.weights.to(weight), fit.bias.flatten().to(weight))


def sampled_error(
    expression: Expression, samples: Samples, rectifier: Rectifier | None = None
) -> float:
    """Relative squared error of an expression's outputs; behind the ReLU, if one follows."""
    made, wanted = _responses(expression, samples.patches), samples.targets
    if rectifier is not None:
        made, wanted = rectifier.read(made), rectifier.read(wanted)
    return float((made - wanted).square().sum() / wanted.square().sum())


def _responses(expression: Expression, seen: Tensor) -> Tensor:
    """Outputs of an expression for patches, ``(n, O)``."""
    return run(on_patches(expression), seen).flatten(1)


def _only_last(expression: Expression) -> Conv:
    last = expression if isinstance(expression, Conv) else expression.parts[-1]
    if not isinstance(last, Conv) or last.groups != 1 or len(last_factors(expression)) > 1:
        raise ValueError("channel decomposition needs one last convolution of one group")
    return last
