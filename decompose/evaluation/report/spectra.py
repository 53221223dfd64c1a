"""Measure spectra of a model's layers: the energy that each method keeps, against its MACs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import nn

from decompose.algebra import Conv, compose
from decompose.evaluation.inspection import kernel_shape
from decompose.layers.costs import macs_of_calls, trace_shapes
from decompose.layers.discovery import find_layers
from decompose.layers.modules import to_expression
from decompose.methods import METHODS, Method
from decompose.utils.batches import Example

Calls = Sequence[tuple[int, ...]]
"""Input shapes of a layer, one for each of its calls."""

_NUM_RANKS = 20
"""Ranks at which a curve is drawn, spread evenly by their logarithm."""

_MOST_WORK = 1e10
"""Most multiplications of a layer's singular value decomposition; dearer ones are left out."""


class SpectrumPoint(NamedTuple):
    """One rank of one method.

    Attributes:
        rank: number of terms.
        macs: MACs at this rank, as a share of the original layer's.
        energy: share of the kernel's squared weights that is kept.
    """

    rank: int
    macs: float
    energy: float


@dataclass(frozen=True)
class LayerSpectra:
    """The spectra of one layer.

    Attributes:
        shape: kernel size, channels and groups, for readers.
        curves: by method, points of rising rank.
        why_none: the reason where there is no curve.
    """

    shape: str
    curves: Mapping[str, tuple[SpectrumPoint, ...]] = field(default_factory=dict)
    why_none: str = ""


def layer_spectra(model: nn.Module, example: Example) -> dict[str, LayerSpectra]:
    """Measure the spectra of every layer of a model, by layer name.

    Args:
        model: left as it was.
        example: one batch; only its shape matters.

    Raises:
        DecomposeError: the model does not take the example.

    >>> import torch
    >>> model = nn.Sequential(nn.Conv2d(4, 8, 3))
    >>> found = layer_spectra(model, torch.zeros(1, 4, 16, 16))
    >>> round(found["0"].curves["spatial"][-1].energy, 6)
    1.0
    """
    shapes = trace_shapes(model, example)
    return {
        name: _spectra_of(compose(to_expression(layer)), shapes.get(name, ()))
        for name, layer in find_layers(model).items()
    }


def _spectra_of(conv: Conv, calls: Calls) -> LayerSpectra:
    shape = kernel_shape(conv)
    if not calls:
        return LayerSpectra(shape, why_none="the example does not reach this layer")
    short, long = sorted((conv.out_channels, conv.in_channels * conv.num_taps))
    if short**2 * long > _MOST_WORK:
        return LayerSpectra(
            shape, why_none="the layer is too large for its spectrum to be computed"
        )
    curves = {
        name: _curve(method, conv, calls)
        for name, method in METHODS.items()
        if not method.iterates and method.why_not(conv) is None
    }
    return LayerSpectra(shape, curves, "" if curves else "no method rewrites a layer of this kind")


def _curve(method: Method, conv: Conv, calls: Calls) -> tuple[SpectrumPoint, ...]:
    most = method.max_rank(conv)
    energy = method.energy(conv).tolist()
    ranks = np.unique(np.geomspace(1, most, _NUM_RANKS).round().astype(int)).tolist()
    blank = conv.without_weights()
    whole = macs_of_calls(calls, blank)
    rewrite = method.prepare(blank)
    return tuple(
        SpectrumPoint(rank, macs_of_calls(calls, rewrite(rank)) / whole, energy[rank - 1])
        for rank in ranks
    )
