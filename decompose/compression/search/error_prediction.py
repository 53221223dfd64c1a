"""Predict the error of the model's output from a decomposed layer, by statistics.

With D the difference of two kernels as matrices, C the covariance of the input's patches and B the
metric of the output (``statistics``), the relative squared error of the model's output is about

    correction tr(B D C D^T).

Means are left out: a bias makes them good. The trace leaves out that errors are alike
at neighbouring positions, and that repair wins some back; the correction makes up for both, and is
measured on the model itself, once for each layer and family of methods (``sensitivity``).

C enters by its square root's random projection, a few hundred rows S with ``E[S^T S] = C``, on which
expressions run as they are: no expression need be multiplied out.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isnan, sqrt

import torch
from torch import Tensor

from decompose.algebra import Conv, Expression, on_patches, run
from decompose.compression.layer_statistics import LayerStatistics

_NUM_ROWS = 256
_JITTER = 1e-4
"""Added to a covariance's diagonal, as a share of its mean: few inputs span no space of patches."""


def output_error(conv: Conv, statistics: LayerStatistics) -> Callable[[Expression], float]:
    """Make the function from an expression instead of a layer to its error tr(B D C D^T).

    Where no gradient came back, it is the relative error of the layer's own output.

    Args:
        conv: the layer.
        statistics: its own.
    """
    rows = _pseudo_patches(statistics).to(conv.weight)
    seen = rows.transpose(0, 1).reshape(rows.shape[1], conv.in_channels, *conv.kernel_size)
    expected = run(on_patches(conv), seen)
    metric = statistics.metric.to(conv.weight)
    if not metric.any():
        energy = float(expected.square().sum(dtype=torch.float64))
        metric = torch.eye(metric.shape[1]).to(metric).expand_as(metric) / (energy or 1.0)

    def predict(expression: Expression) -> float:
        difference = run(on_patches(expression), seen) - expected
        blocks = difference.flatten(1).unflatten(1, (conv.groups, -1)).transpose(0, 1)
        error = float(((blocks @ metric) * blocks).sum(dtype=torch.float64))
        return inf if isnan(error) else max(0.0, error)

    return predict


def _pseudo_patches(statistics: LayerStatistics) -> Tensor:
    """Draw rows whose second moments are the covariance, ``(groups, rows, D)``."""
    depth = statistics.mean.shape[1]
    generator = torch.Generator().manual_seed(0)
    if depth > _NUM_ROWS:
        mixing = torch.randn(_NUM_ROWS, depth, generator=generator) / sqrt(_NUM_ROWS)
    else:
        mixing = torch.eye(depth)
    covariance = statistics.covariance
    mixing = mixing.to(covariance)
    if statistics.is_diagonal:
        return mixing * covariance.sqrt().unsqueeze(1)
    variances = covariance.diagonal(dim1=1, dim2=2)
    ridge = _JITTER * variances.mean(1).clamp_min(1e-30)
    regularised = covariance + torch.diag_embed(ridge.unsqueeze(1).expand(variances.shape))
    root, failures = torch.linalg.cholesky_ex(regularised)
    if failures.any():
        values, vectors = torch.linalg.eigh(covariance.double())
        root = (vectors * values.clamp_min(0).sqrt().unsqueeze(1)).to(covariance)
    return mixing @ root.mT
