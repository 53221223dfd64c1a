"""Channel and spatial decomposition from data: what a layer writes is kept, not its kernel.

Zhang, Zou, He, Sun: "Accelerating Very Deep Convolutional Networks for Classification and Detection",
TPAMI 2016 (arXiv 1505.06798). With a layer's response y in the original model, and the response
``y^`` of its kernel W to what it sees after the layers before it were rewritten, find M of rank r

    min sum |r(y) - r(M y^ + b)|^2,     M = P Q,  P (O, r), Q (r, O).

Then ``Q W`` are the r filters and P mixes them. Without the rectifier r it is a reduced-rank
regression, the truncated GSVD of section 3.3; where y^ = y, the principal components of y, section
3.1. With it (section 3.2) an auxiliary output z stands between,

    min sum |r(y) - r(z)|^2 + lambda |z - M y^ - b|^2,

alternating: z in closed form at every place, M by reduced-rank regression on z; lambda grows.

Spatial decomposition (Jaderberg et al., BMVC 2014, arXiv 1405.3866, section 3.2) is truncated as a
kernel and its second factor refitted to the responses. They refine both factors by gradient
descent; here the second one has its best in closed form.

Where the paper's data are ample, ours may be few: everything is pulled a little towards what is
known without data, M = 1 or the truncated factor, by a ridge in the units of ``regression``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    """``y = mixing @ weights @ x + bias``, in float64.

    Attributes:
        mixing: P, ``(O, r)``, with orthonormal columns where no rectifier was in play.
        weights: Q, ``(r, F)``.
        bias: ``(O,)``.
    """

    mixing: Tensor
    weights: Tensor
    bias: Tensor

    def predict(self, x: Tensor) -> Tensor:
        """``(n, F)`` to ``(n, O)``."""
        return x @ self.weights.to(x).T @ self.mixing.to(x).T + self.bias.to(x)


class ReducedRank:
    """Regressions of rank r on the same inputs, O(n F (F + O) + F^3 + O^3) each.

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
        """The best of a rank for targets ``(n, O)``."""
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
    """The regression of a rank whose rectified outputs are near the rectified targets.

    Args:
        x: ``(n, F)``.
        y: ``(n, O)``.
        rank: r.
        prior: M_0, ``(O, F)``.
        rectifier: what follows.
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
    """Channel decomposition of a layer's last kernel, from data.

    Args:
        expression: a convolution, or a chain that ends in one, of one group.
        samples: of the layer.
        rank: r, from 1 to O.
        rectifier: what follows the layer.
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
    response = _responses(expression, samples.seen)
    response = response if bias is None else response - bias.to(response)
    eye = torch.eye(last.out_channels, dtype=torch.float64)
    if rectifier is None:
        fit = ReducedRank(response, eye, ridge).fit(samples.wanted, rank)
    else:
        fit = rectified_reduced_rank(
            response, samples.wanted, rank, eye, rectifier, ridge, rounds=rounds
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
    """Spatial decomposition of a layer, its second factor refitted to data.

    Args:
        conv: the layer.
        samples: of it.
        rank: r.
        rectifier: what follows the layer.
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
    """The expression whose last factors, and bias, give the nearest to what is wanted.

    Args:
        expression: whose last factors have as many groups each.
        samples: of the layer.
        rectifier: what follows the layer; what it cuts off is left free.
        ridge: pull towards the factors as they are.
    """
    conv = last_factors(expression)[0].conv
    seen = features(on_patches(expression), samples.seen)
    wanted = samples.wanted.unflatten(1, (conv.groups, -1)).transpose(0, 1)
    rows, prior = Moments.of(seen, wanted).cpu(), last_weights(expression).double().cpu()
    path = RidgePath(rows, prior)
    fit = path.fit(ridge)
    if rectifier is not None:
        following = rectifier.by_group(conv.groups)
        fit = rectified_fit(rows, [(seen, wanted)], path, ridge, fit, following)
    weight = conv.weight
    return with_last_weights(expression, fit.weights.to(weight), fit.bias.flatten().to(weight))


def sampled_error(
    expression: Expression, samples: Samples, rectifier: Rectifier | None = None
) -> float:
    """Relative squared error of what a layer writes; where a rectifier follows, of what goes on."""
    made, wanted = _responses(expression, samples.seen), samples.wanted
    if rectifier is not None:
        made, wanted = rectifier.read(made), rectifier.read(wanted)
    return float((made - wanted).square().sum() / wanted.square().sum())


def _responses(expression: Expression, seen: Tensor) -> Tensor:
    """What an expression makes of patches, ``(n, O)``."""
    return run(on_patches(expression), seen).flatten(1)


def _only_last(expression: Expression) -> Conv:
    last = expression if isinstance(expression, Conv) else expression.parts[-1]
    if not isinstance(last, Conv) or last.groups != 1 or len(last_factors(expression)) > 1:
        raise ValueError("channel decomposition needs one last convolution of one group")
    return last
