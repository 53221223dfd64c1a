"""Ridge regression from sums: rows come in any number of portions and are never kept.

With features z and targets y of one row a place, minimise over weights W and a bias b

    sum |y - W z - b|^2  +  n ridge d |W - W_0|^2,

where d is the mean variance of a feature, so that ``ridge`` has no unit, and W_0 a prior: what is
known before any data. Closed form, from sums of z, y, z z^T and y z^T in float64. Groups have
regressions of their own, with the same ridge.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isnan
from typing import Any

import torch
from torch import Tensor

from decompose.utils.errors import DecomposeError

_CONSTANT = 1e-6
"""Share of its second moment below which a variance is rounding: rows may be in float32."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over rows of features and targets; those of portions add up.

    Attributes:
        count: number of rows n.
        z: sum of features, ``(groups, F)``.
        y: sum of targets, ``(groups, O)``.
        zz: sum of ``z z^T``, ``(groups, F, F)``.
        yz: sum of ``y z^T``, ``(groups, O, F)``.
        yy: sum of squares of each target, ``(groups, O)``.
    """

    count: int
    z: Tensor
    y: Tensor
    zz: Tensor
    yz: Tensor
    yy: Tensor

    @classmethod
    def of(cls, features: Tensor, targets: Tensor) -> Moments:
        """The sums over one portion.

        Args:
            features: ``(groups, n, F)``.
            targets: ``(groups, n, O)``.
        """
        z, y = features, targets
        # The products run in the rows' precision, the sums of portions in float64.
        parts = z.sum(1), y.sum(1), z.mT @ z, y.mT @ z, _wide(y).square().sum(1)
        return cls(z.shape[1], *map(_wide, parts))

    def cpu(self) -> Moments:
        """The same on the CPU, where the regressions are solved."""
        parts = (self.z, self.y, self.zz, self.yz, self.yy)
        return Moments(self.count, *(part.cpu().double() for part in parts))

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(a + b for a, b in zip(_parts(self), _parts(other), strict=True)))

    def __sub__(self, other: Moments) -> Moments:
        """The sums without those of a portion that was added before."""
        return Moments(*(a - b for a, b in zip(_parts(self), _parts(other), strict=True)))


def _wide(tensor: Tensor) -> Tensor:
    """In float64, where the device has it."""
    return tensor if tensor.device.type == "mps" else tensor.double()


def _parts(rows: Moments) -> tuple[Any, ...]:
    return rows.count, rows.z, rows.y, rows.zz, rows.yz, rows.yy


@dataclass(frozen=True, eq=False)
class Fit:
    """Weights ``(groups, O, F)`` and bias ``(groups, O)``, float64."""

    weights: Tensor
    bias: Tensor


class RidgePath:
    """The weights and bias of the least squared error, for any ridge.

    Args:
        rows: what to fit.
        prior: weights W_0, ``(groups, O, F)``.
    """

    def __init__(self, rows: Moments, prior: Tensor) -> None:
        self._rows, self._prior = rows, prior
        self._factors: dict[float, Tensor] = {}
        z = rows.z / rows.count
        self._zz = rows.zz / rows.count - z.unsqueeze(2) * z.unsqueeze(1)
        # Of few rows the variance may be nothing but rounding.
        least = _CONSTANT * _mean_diagonal(rows.zz) / rows.count
        self._scale = _mean_diagonal(self._zz).maximum(least).clamp_min(torch.finfo(z.dtype).tiny)

    def fit(self, ridge: float, rows: Moments | None = None) -> Fit:
        """The best for a pull towards the prior.

        Args:
            ridge: the pull, positive, without unit.
            rows: the same features with other targets; those of the path by default.
        """
        rows = rows or self._rows
        if ridge not in self._factors:
            self._factors[ridge] = _cholesky(self._zz, ridge * self._scale)
        z, y = rows.z / rows.count, rows.y / rows.count
        yz = rows.yz / rows.count - y.unsqueeze(2) * z.unsqueeze(1)
        # The prior's residual is regressed, so that an unseen feature keeps its prior exactly.
        residual = yz - self._prior @ self._zz
        weights = self._prior + torch.cholesky_solve(residual.mT, self._factors[ridge]).mT
        return Fit(weights, _bias(rows, weights))


def ridge_fit(rows: Moments, prior: Tensor, ridge: float) -> Fit:
    """The weights and bias of the least squared error, as ``RidgePath`` has them for one ridge."""
    return RidgePath(rows, prior).fit(ridge)


def scale_fit(rows: Moments, prior: Tensor) -> Fit:
    """The prior, each of its targets scaled and shifted to the least squared error."""
    mean = (prior * rows.z.unsqueeze(1)).sum(2) / rows.count
    covariance = (prior * rows.yz).sum(2) / rows.count - mean * rows.y / rows.count
    variance = ((prior @ rows.zz) * prior).sum(2) / rows.count - mean.square()
    # A feature that hardly varies carries its mean only, which the bias takes.
    varies = variance > _CONSTANT * (variance + mean.square())
    scale = torch.where(varies, covariance / variance, 1.0)
    weights = prior * scale.unsqueeze(2)
    return Fit(weights, _bias(rows, weights))


def shift_fit(rows: Moments, prior: Tensor) -> Fit:
    """The prior, with the bias of the least squared error."""
    return Fit(prior, _bias(rows, prior))


def squared_error(rows: Moments, fit: Fit) -> float:
    """Sum over the rows of ``|y - W z - b|^2``."""
    weights, bias = fit.weights, fit.bias
    predicted = weights @ rows.zz
    error = (
        rows.yy
        - 2 * (weights * rows.yz).sum(2)
        + (predicted * weights).sum(2)
        - 2 * bias * rows.y
        + 2 * bias * (weights * rows.z.unsqueeze(1)).sum(2)
        + rows.count * bias.square()
    )
    total = float(error.sum())
    return inf if isnan(total) else max(0.0, total)


def _cholesky(matrices: Tensor, pull: Tensor) -> Tensor:
    """The root of ``matrices + pull I``; a stronger pull where rounding asks for it.

    Raises:
        DecomposeError: the matrices are not finite, which no pull makes good.
    """
    if not torch.isfinite(matrices).all():
        raise DecomposeError("what a layer gives on the calibration inputs overflows")
    while True:
        regularised = matrices.clone()
        regularised.diagonal(dim1=1, dim2=2).add_(pull.unsqueeze(1))
        factor, failures = torch.linalg.cholesky_ex(regularised)
        if not failures.any():
            return factor
        pull = 10 * pull


def _mean_diagonal(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2).mean(1)


def _bias(rows: Moments, weights: Tensor) -> Tensor:
    return (rows.y - (weights * rows.z.unsqueeze(1)).sum(2)) / rows.count
