"""Candidates of a layer with fewer input channels, and of the layers that write them with fewer outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from decompose.algebra import Expression, eliminations, keep_inputs, keep_outputs
from decompose.compression.layer_statistics import LayerStatistics
from decompose.compression.search.candidates import Candidate
from decompose.layers.dependencies import HiddenChannels
from decompose.layers.modules import to_conv
from decompose.layers.survey import Survey
from decompose.methods.choices import Choice
from decompose.methods.pruning import PRUNE, PrunedChannels

_STEPS, _LEAST_STEPS = 24, 5
"""Numbers of channels that are tried: 23, 22, ... 5 parts in 24 of all."""


def find_pruning_candidates(
    hidden: HiddenChannels,
    known: Survey,
    statistics: LayerStatistics,
    costs: Mapping[str, Callable[[Expression], int]],
    multiple: int = 1,
) -> list[Candidate]:
    """Find candidates that leave out hidden channels.

    The cost of one is that of the layer and of those that it covers; what is saved in layers that stay as
    they are otherwise is taken off.

    Args:
        hidden: the channels, and the layers around them.
        known: the survey of the model.
        statistics: of the layer that reads them.
        costs: by layer, from an expression instead of it to its cost.
        multiple: of which the number of channels that stay is to be a multiple.
    """
    conv = known.convs[hidden.consumer]
    counts = _counts(conv.in_channels, multiple)
    if statistics.is_diagonal or not counts:
        return []
    covered = tuple(name for name in hidden.convs if name in known.convs)
    shapes = {name: to_conv(known.layers[name]).without_weights() for name in hidden.convs}
    found = []
    covariance, metric = statistics.covariance[0], statistics.metric[0]
    if not metric.any():
        # No gradient came back: the relative error of the layer's own output.
        weight = conv.weight.flatten(1).to(covariance)
        energy = float(((weight @ covariance) * weight).sum())
        metric = torch.eye(len(weight)) / (energy or 1.0)
    chosen = eliminations(conv, covariance, metric, counts)
    for count, (kept, error) in zip(counts, chosen, strict=True):
        some = torch.arange(count)
        cost = costs[hidden.consumer](keep_inputs(conv.without_weights(), some))
        for name, shape in shapes.items():
            cost += costs[name](keep_outputs(shape, some))
            cost -= 0 if name in covered else costs[name](shape)
        pruned = PrunedChannels(tuple(kept.tolist()), conv.in_channels, hidden.writers)
        found.append(Candidate(Choice(PRUNE, count, pruned=pruned), cost, error, covered))
    return found


def _counts(num_channels: int, multiple: int) -> list[int]:
    parts = range(_STEPS - 1, _LEAST_STEPS - 1, -1)
    counts = (part * num_channels // _STEPS // multiple * multiple for part in parts)
    return list(dict.fromkeys(count for count in counts if 0 < count < num_channels))
