"""Ridge regression from sums: rows come in any number of portions and are never kept.

With features z and targets y, a row for each position, minimise over weights W and a bias b

    sum |y - W z - b|^2  +  n ridge d |W - W_0|^2,

where d is the mean variance of a feature, so that ``ridge`` has no unit, and W_0 a prior:
the weights before any data. Closed form, from sums of z, y, z z^T and y z^T in float64. Groups have
regressions of their own, with the same ridge.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, isnan, nan
from typing import Any, Self

import torch
from torch import Tensor

from decompose.algebra.gram import add_gram_, mirror_
from decompose.utils.errors import DecomposeError

_MOST_FEATURES_WIDE = 2048
"""Features beyond which their products are added up in the rows' precision, for memory."""

_CONSTANT = 1e-6
"""Share of its second moment below which a variance is rounding: rows may be in float32."""


@dataclass(eq=False)
class Moments:
    """Sums over rows of features and targets; those of portions add up.

    Attributes:
        count: number of rows n.
        z: sum of features, ``(groups, F)``.
        y: sum of targets, ``(groups, O)``.
        zz: sum of ``z z^T``, ``(groups, F, F)``; of many features not in float64.
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
    def none(cls, features: Tensor, targets: Tensor) -> Moments:
        """Sums over no rows yet, for rows like these.

        Args:
            features: ``(groups, n, F)``.
            targets: ``(groups, n, O)``.
        """
        groups, _, num_features = features.shape
        num_targets, dtype = targets.shape[2], _widest(features)
        wide = features.new_zeros((), dtype=dtype)
        zz = wide if num_features <= _MOST_FEATURES_WIDE else features
        return cls(
            0,
            wide.new_zeros(groups, num_features),
            wide.new_zeros(groups, num_targets),
            zz.new_zeros(groups, num_features, num_features),
            wide.new_zeros(groups, num_targets, num_features),
            wide.new_zeros(groups, num_targets),
        )

    @classmethod
    def of(cls, features: Tensor, targets: Tensor) -> Moments:
        """Add up the rows of one portion; arguments as for ``none``."""
        rows = cls.none(features, targets)
        rows.add_rows_(features, targets)
        mirror_(rows.zz)
        return rows

    def add_rows_(self, features: Tensor, targets: Tensor) -> None:
        """Add rows in place; above its diagonal ``zz`` is right only after ``mirror_``.

        Args:
            features: ``(groups, n, F)``.
            targets: ``(groups, n, O)``.
        """
        # The products run in the rows' precision, the sums of portions in float64.
        self.count += features.shape[1]
        self.z += features.sum(1)
        self.y += targets.sum(1)
        self.yz += targets.mT @ features
        self.yy += targets.to(self.yy).square().sum(1)
        add_gram_(self.zz, features)

    def mixed(self, mixing: Tensor) -> Moments:
        """The sums for mixtures of the targets; their squares are not known.

        Args:
            mixing: ``(mixtures, O)``.
        """
        unknown = torch.full_like(self.yy[:, : len(mixing)], nan)
        return replace(self, y=self.y @ mixing.mT, yz=mixing @ self.yz, yy=unknown)

    def cpu(self) -> Moments:
        """The same on the CPU, where the regressions are solved."""
        z, y, yz, yy = (part.cpu().double() for part in (self.z, self.y, self.yz, self.yy))
        return Moments(self.count, z, y, self.zz.cpu(), yz, yy)

    def __iadd__(self, other: Moments) -> Self:
        """Add the sums of another portion, in place."""
        self.count += other.count
        for held, more in zip(_parts(self)[1:], _parts(other)[1:], strict=True):
            held += more
        return self

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(a + b for a, b in zip(_parts(self), _parts(other), strict=True)))


def _widest(tensor: Tensor) -> torch.dtype:
    """Float64, where the tensor's device has it."""
    return tensor.dtype if tensor.device.type == "mps" else torch.float64


def _parts(rows: Moments) -> tuple[Any, ...]:
    return rows.count, rows.z, rows.y, rows.zz, rows.yz, rows.yy


@dataclass(frozen=True, eq=False)
class Fit:
    """Weights ``(groups, O, F)`` and bias ``(groups, O)``, float64."""

    weights: Tensor
    bias: Tensor

    def mixed(self, mixing: Tensor) -> Fit:
        """The fit of mixtures of the targets, ``(mixtures, O)``."""
        return Fit(mixing @ self.weights, self.bias @ mixing.mT)


class RidgePath:
    """Ridge regressions of the same rows for any ridge.

    Args:
        rows: sums over the rows to fit.
        prior: weights W_0, ``(groups, O, F)``.
        dtype: in which the equations are solved: float64, or float32 to compare ridges quickly.
    """

    def __init__(self, rows: Moments, prior: Tensor, dtype: torch.dtype = torch.float64) -> None:
        self.rows, self._prior = rows, prior
        self._root: tuple[float, Tensor] | None = None
        z = rows.z / rows.count
        self._zz = rows.zz.to(dtype) / rows.count
        self._zz -= z.unsqueeze(2).to(dtype) * z.unsqueeze(1).to(dtype)
        # Of few rows the variance may be nothing but rounding.
        least = _CONSTANT * _mean_diagonal(rows.zz).double() / rows.count
        self._scale = (
            _mean_diagonal(self._zz).double().maximum(least).clamp_min(torch.finfo(z.dtype).tiny)
        )

    def fit(self, ridge: float, rows: Moments | None = None) -> Fit:
        """Fit with a pull towards the prior.

        Args:
            ridge: the pull, positive, without unit.
            rows: the same features with other targets; those of the path by default.
        """
        rows = rows or self.rows
        if self._root is None or self._root[0] != ridge:
            self._root = None  # Two of many features would be too large.
            self._root = ridge, _cholesky(self._zz, ridge * self._scale)
        z, y = rows.z / rows.count, rows.y / rows.count
        yz = rows.yz / rows.count - y.unsqueeze(2) * z.unsqueeze(1)
        # The prior's residual is regressed, so that an unseen feature keeps its prior exactly.
        residual = yz - self._explained
        root = self._root[1]
        weights = self._prior + torch.cholesky_solve(residual.mT.to(root), root).mT
        return Fit(weights, _bias(rows, weights))

    def metric(self, ridge: float) -> Tensor:
        """Covariance of the features with the pull on its diagonal, ``(groups, F, F)``."""
        metric = self._zz.clone()
        metric.diagonal(dim1=1, dim2=2).add_((ridge * self._scale).unsqueeze(1))
        return metric

    @cached_property
    def _explained(self) -> Tensor:
        """Covariance of what the prior predicts with the features, ``(groups, O, F)``."""
        return _multiplied(self._prior, self._zz)


def ridge_fit(rows: Moments, prior: Tensor, ridge: float) -> Fit:
    """Fit with one ridge, as ``RidgePath``."""
    return RidgePath(rows, prior).fit(ridge)


def scale_fit(rows: Moments, prior: Tensor) -> Fit:
    """Scale and shift each target of the prior for the least squared error."""
    mean = (prior * rows.z.unsqueeze(1)).sum(2) / rows.count
    covariance = (prior * rows.yz).sum(2) / rows.count - mean * rows.y / rows.count
    variance = (_multiplied(prior, rows.zz) * prior).sum(2) / rows.count - mean.square()
    # A feature that hardly varies carries its mean only, which the bias takes.
    varies = variance > _CONSTANT * (variance + mean.square())
    scale = torch.where(varies, covariance / variance, 1.0)
    weights = prior * scale.unsqueeze(2)
    return Fit(weights, _bias(rows, weights))


def shift_fit(rows: Moments, prior: Tensor) -> Fit:
    """Shift each target of the prior for the least squared error."""
    return Fit(prior, _bias(rows, prior))


def squared_error(rows: Moments, fit: Fit) -> float:
    """Sum over the rows of ``|y - W z - b|^2``."""
    return max(0.0, float(rows.yy.sum()) + excess_error(rows, fit))


def excess_error(rows: Moments, fit: Fit) -> float:
    """The squared error less that of no fit, ``|y - W z - b|^2 - |y|^2`` summed over the rows."""
    weights, bias = fit.weights, fit.bias
    predicted = _multiplied(weights, rows.zz)
    error = (
        (predicted * weights).sum(2)
        - 2 * (weights * rows.yz).sum(2)
        - 2 * bias * rows.y
        + 2 * bias * (weights * rows.z.unsqueeze(1)).sum(2)
        + rows.count * bias.square()
    )
    total = float(error.sum())
    return inf if isnan(total) else total


def _cholesky(matrices: Tensor, pull: Tensor) -> Tensor:
    """The root of ``matrices + pull I``; in float64, then by a stronger pull, where rounding asks for it.

    Raises:
        DecomposeError: the matrices are not finite, which no pull makes good.
    """
    # No covariance is beyond its variances.
    if not torch.isfinite(matrices.diagonal(dim1=1, dim2=2)).all():
        raise DecomposeError("what a layer gives on the calibration inputs overflows")
    while True:
        factor, failures = _regularised_root(matrices, pull)
        if not failures.any():
            return factor
        if matrices.dtype == torch.float64:
            pull = 10 * pull
        matrices = matrices.double()


def _regularised_root(matrices: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    """The root of ``matrices + pull I``, without a copy of the matrices, and where it failed."""
    diagonal = matrices.diagonal(dim1=1, dim2=2)
    kept = diagonal.clone()
    diagonal.add_(pull.unsqueeze(1))
    factor, failures = torch.linalg.cholesky_ex(matrices)
    diagonal.copy_(kept)
    return factor, failures


def _multiplied(weights: Tensor, zz: Tensor) -> Tensor:
    """``weights zz`` in float64, multiplied in the precision of ``zz``."""
    return (weights.to(zz) @ zz).to(weights)


def _mean_diagonal(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2).mean(1)


def _bias(rows: Moments, weights: Tensor) -> Tensor:
    return (rows.y - (weights * rows.z.unsqueeze(1)).sum(2)) / rows.count
