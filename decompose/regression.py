"""Ridge regression from sums: rows come in any number of portions and are never kept.

With features z and targets y of one row a place, minimise over weights W and a bias b

    sum |y - W z - b|^2  +  n ridge d |W - W_0|^2,

where d is the mean variance of a feature, so that ``ridge`` has no unit, and W_0 a prior: what is
known before any data. Closed form, from sums of z, y, z z^T and y z^T in float64. Groups have
regressions of their own, with the same ridge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rows:
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
    def of(cls, features: Tensor, targets: Tensor) -> Rows:
        """The sums over one portion.

        Args:
            features: ``(groups, n, F)``.
            targets: ``(groups, n, O)``.
        """
        z, y = features, targets
        # The products run in the rows' precision, the sums of portions in float64.
        return cls(
            z.shape[1],
            z.sum(1).cpu().double(),
            y.sum(1).cpu().double(),
            (z.mT @ z).cpu().double(),
            (y.mT @ z).cpu().double(),
            y.cpu().double().square().sum(1),
        )

    def __add__(self, other: Rows) -> Rows:
        return Rows(*(a + b for a, b in zip(_parts(self), _parts(other), strict=True)))

    def __sub__(self, other: Rows) -> Rows:
        """The sums without those of a portion that was added before."""
        return Rows(*(a - b for a, b in zip(_parts(self), _parts(other), strict=True)))


def _parts(rows: Rows) -> tuple[Any, ...]:
    return rows.count, rows.z, rows.y, rows.zz, rows.yz, rows.yy


@dataclass(frozen=True, eq=False)
class Fit:
    """Weights ``(groups, O, F)`` and bias ``(groups, O)``, float64."""

    weights: Tensor
    bias: Tensor


def ridge_fit(rows: Rows, prior: Tensor, ridge: float, *, with_bias: bool) -> Fit:
    """The weights and bias of the least squared error.

    Args:
        rows: what to fit.
        prior: weights W_0, ``(groups, O, F)``.
        ridge: pull towards the prior, positive, without unit.
        with_bias: whether there is a bias; without one it is 0.
    """
    zz, yz = rows.zz / rows.count, rows.yz / rows.count
    if with_bias:
        z, y = rows.z / rows.count, rows.y / rows.count
        zz = zz - z.unsqueeze(2) * z.unsqueeze(1)
        yz = yz - y.unsqueeze(2) * z.unsqueeze(1)
    pull = ridge * zz.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(zz.dtype).tiny)
    pull = pull.view(-1, 1, 1)
    regularised = zz + pull * torch.eye(zz.shape[1], dtype=zz.dtype)
    # The prior's residual is regressed, so that an unseen feature keeps its prior exactly.
    residual = yz - prior @ zz
    factor = torch.linalg.cholesky(regularised)
    weights = prior + torch.cholesky_solve(residual.mT, factor).mT
    return Fit(weights, _bias(rows, weights, with_bias=with_bias))


def scale_fit(rows: Rows, prior: Tensor, *, with_bias: bool) -> Fit:
    """The prior, each of its targets scaled and shifted to the least squared error."""
    predicted_y = (prior * rows.yz).sum(2) / rows.count
    predicted_square = ((prior @ rows.zz) * prior).sum(2) / rows.count
    if with_bias:
        mean = (prior * rows.z.unsqueeze(1)).sum(2) / rows.count
        predicted_y = predicted_y - mean * rows.y / rows.count
        predicted_square = predicted_square - mean.square()
    scale = torch.where(predicted_square > 0, predicted_y / predicted_square, 1.0)
    weights = prior * scale.unsqueeze(2)
    return Fit(weights, _bias(rows, weights, with_bias=with_bias))


def shift_fit(rows: Rows, prior: Tensor, *, with_bias: bool) -> Fit:
    """The prior, with the bias of the least squared error."""
    return Fit(prior, _bias(rows, prior, with_bias=with_bias))


def squared_error(rows: Rows, fit: Fit) -> float:
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
    return max(0.0, float(error.sum()))


def _bias(rows: Rows, weights: Tensor, *, with_bias: bool) -> Tensor:
    if not with_bias:
        return torch.zeros_like(rows.y)
    return (rows.y - (weights * rows.z.unsqueeze(1)).sum(2)) / rows.count
