"""Regression on targets that a ReLU follows.

The error that counts is that of the outputs behind the ReLU; outputs below its threshold are free. Its
bound by ``Rectifier.targets`` is a squared error, so that ridge regression lowers it, a few rounds
in turn. That needs rows again and again, so some are kept: all of them where inputs are few, and an
even choice of them where there are many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from decompose.compression.reconstruction.ridge import Fit, Moments
from decompose.layers.relu import Rectifier

_ROUNDS = 3

_MOST_KEPT = 2**21
"""Numbers kept of the rows of one fold: 8 MB in float32. With twice as many CIFAR-10's ResNet-20 was no
better."""

RowChunk = tuple[Tensor, Tensor]
"""Features ``(groups, n, F)`` and targets ``(groups, n, O / groups)``."""


@dataclass
class RowSample:
    """Keeps every chunk while they are few, then every second, every fourth and so on."""

    _kept: list[tuple[int, RowChunk]] = field(default_factory=list)
    _seen: int = 0
    _stride: int = 1
    _held: int = 0

    @property
    def chunks(self) -> list[RowChunk]:
        """Those that are kept."""
        return [chunk for _, chunk in self._kept]

    def add(self, chunk: RowChunk) -> None:
        """Offer the next chunk."""
        if self._seen % self._stride == 0:
            self._kept.append((self._seen, chunk))
            self._held += _size(chunk)
        self._seen += 1
        while self._held > _MOST_KEPT and len(self._kept) > 2:
            self._stride *= 2
            self._kept = [p for p in self._kept if p[0] % self._stride == 0]
            self._held = sum(_size(chunk) for _, chunk in self._kept)


def rectified_fit(
    rows: Moments,
    chunks: Sequence[RowChunk],
    refit: Callable[[Moments], Fit],
    start: Fit,
    rectifier: Rectifier,
    rounds: int = _ROUNDS,
) -> Fit:
    """Lower the error of the outputs behind the ReLU.

    Args:
        rows: the sums over all rows.
        chunks: some of the rows.
        refit: from the sums of the same features with other targets to their fit.
        start: the fit to begin with.
        rectifier: of the ReLU, ``by_group``.
        rounds: of moving the targets that the ReLU cuts off, and fitting.
    """
    fit = start
    share = rows.count / sum(z.shape[1] for z, _ in chunks)
    # Multiplied by, which is quicker than to fill by a mask.
    cuts = [rectifier.passes(wanted).logical_not_() for _, wanted in chunks]
    for _ in range(rounds):
        y = yz = torch.zeros(())
        for (features, wanted), cut in zip(chunks, cuts, strict=True):
            # To ``Rectifier.targets``, in place: targets that pass stay.
            moved = rectifier.cut_off(_predict(fit, features))
            moved = moved.sub_(wanted).mul_(cut)
            # On the rows' device, to be moved once.
            y = y.to(moved) + moved.sum(1)
            yz = yz.to(moved) + moved.mT @ features
        y, yz = (rest + share * part.cpu().double() for rest, part in ((rows.y, y), (rows.yz, yz)))
        fit = refit(replace(rows, y=y, yz=yz))
    return fit


def rectified_error(chunks: Sequence[RowChunk], fit: Fit, rectifier: Rectifier) -> float:
    """Squared error of the outputs behind the ReLU, summed over the rows."""
    total = 0.0
    for features, wanted in chunks:
        difference = rectifier.read(_predict(fit, features)) - rectifier.read(wanted)
        total += float(difference.square().sum(dtype=torch.float64))
    return total


def rectified_energy(chunks: Sequence[RowChunk], rectifier: Rectifier) -> float:
    """Energy of the targets behind the ReLU, summed over the rows."""
    return sum(
        float(rectifier.read(wanted).square().sum(dtype=torch.float64)) for _, wanted in chunks
    )


def _predict(fit: Fit, features: Tensor) -> Tensor:
    bias = fit.bias.to(features).unsqueeze(1)
    return torch.baddbmm(bias, features, fit.weights.to(features).mT)


def _size(chunk: RowChunk) -> int:
    return sum(part.numel() for part in chunk)
