"""Predict the error of the model's output from a decomposed layer, by statistics.

With D the difference of two kernels as matrices, C the covariance of the input's patches and B the
metric of the output (``statistics``), the relative squared error of the model's output is about

    correction tr(B D C D^T).

Means are left out: a bias makes them good. The trace leaves out that errors are alike
at neighbouring positions, and that repair wins some back; the correction makes up for both, and is
measured on the model itself, once for each layer and family of methods (``sensitivity``).

C enters by its square root's random projection, a hundred rows or so, S, with ``E[S^T S] = C``, on which
expressions run as they are: no expression need be multiplied out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isnan, sqrt

import torch
from torch import Tensor

from decompose.algebra import (
    Conv,
    Expression,
    FactorOutputs,
    Whitening,
    run_on_patches,
    truncations_on_patches,
)
from decompose.compression.layer_statistics import LayerStatistics

_NUM_ROWS = 128
_JITTER = 1e-4
"""Added to a covariance's diagonal, as a share of its mean: few inputs span no space of patches."""

_MOST_GRADIENTS, _WIDE_METRIC = 64, 4
"""Rank of a metric up to which it is compressed, and how many times wider it is then at least."""

_ROUNDING = 1e-4
"""Share of a metric's trace that rounding may take."""


class OutputError:
    """Predicts tr(B D C D^T) of expressions instead of a layer.

    Where no gradient came back, it is the relative error of the layer's own output. Expressions are
    in the coordinates of their truncation: those of the layer's input, or whitened ones.

    Args:
        conv: the layer.
        statistics: its own.
        whitening: the coordinates in which methods truncate; the layer's own by default.
    """

    def __init__(
        self, conv: Conv, statistics: LayerStatistics, whitening: Whitening | None = None
    ) -> None:
        self._groups, self._whitening = conv.groups, whitening
        rows = _pseudo_patches(statistics).to(conv.weight)
        seen = rows.transpose(0, 1).reshape(rows.shape[1], conv.in_channels, *conv.kernel_size)
        seen = seen.movedim(1, -1).contiguous()
        self._seen: dict[bool | None, Tensor] = {None: seen}
        self._expected = run_on_patches(conv, seen)
        metric = statistics.metric.to(conv.weight)
        if not metric.any():
            energy = float(self._expected.square().sum(dtype=torch.float64))
            metric = torch.eye(metric.shape[1]).to(metric).expand_as(metric) / (energy or 1.0)
        self._basis, self._metric = _compressed(metric)

    def __call__(
        self,
        expression: Expression,
        *,
        channels: bool | None = None,
        outputs: FactorOutputs | None = None,
    ) -> float:
        """Predict the error of an expression.

        Args:
            expression: of the layer's channels and kernel size.
            channels: whether the channels are whitened, of a truncation of the whitened kernel.
            outputs: of factors that other expressions share.
        """
        (error,) = self._of(run_on_patches(expression, self._patches(channels), outputs)[None])
        return error

    def of_truncations(
        self,
        expression: Expression,
        outlines: Sequence[Expression],
        *,
        channels: bool | None = None,
    ) -> list[float]:
        """Predict the errors of several truncations of an expression (``truncations_on_patches``)."""
        seen = self._patches(channels)
        return self._of(torch.stack(list(truncations_on_patches(expression, seen, outlines))))

    def _patches(self, channels: bool | None) -> Tensor:
        if channels not in self._seen:
            assert self._whitening is not None
            seen = self._seen[None].movedim(-1, 1)
            seen = self._whitening.whiten_inputs(seen, channels=bool(channels))
            self._seen[channels] = seen.movedim(1, -1).contiguous()
        return self._seen[channels]

    def _of(self, outputs: Tensor) -> list[float]:
        """The errors of outputs ``(errors, rows, O)``."""
        blocks = (outputs - self._expected).unflatten(2, (self._groups, -1)).transpose(1, 2)
        blocks = blocks if self._basis is None else blocks @ self._basis
        errors = ((blocks @ self._metric) * blocks).sum((1, 2, 3), dtype=torch.float64)
        return [inf if isnan(error) else max(0.0, error) for error in errors.tolist()]


def _compressed(metric: Tensor) -> tuple[Tensor | None, Tensor]:
    """A basis Q and Q^T B Q, where few gradients went into a metric, so that ``B = Q Q^T B Q Q^T``.

    Halko, Martinsson and Tropp 2011 (arXiv 0909.4061), algorithm 4.1. No basis, and B, if the rank is
    not low.
    """
    size = metric.shape[1]
    if size <= _WIDE_METRIC * _MOST_GRADIENTS:
        return None, metric
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(size, _MOST_GRADIENTS, generator=generator).to(metric)
    basis = torch.linalg.qr(metric @ probes).Q
    small = basis.mT @ metric @ basis
    traces = (m.diagonal(dim1=1, dim2=2).sum(dtype=torch.float64) for m in (metric, small))
    whole, kept = traces
    return (basis, small) if whole - kept <= _ROUNDING * whole else (None, metric)


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
    regularised = covariance.clone()
    regularised.diagonal(dim1=1, dim2=2).add_(ridge.unsqueeze(1))
    root, failures = torch.linalg.cholesky_ex(regularised)
    if failures.any():
        values, vectors = torch.linalg.eigh(covariance.double())
        root = (vectors * values.clamp_min(0).sqrt().unsqueeze(1)).to(covariance)
    return mixing @ root.mT
