"""Find layers whose outputs are averaged over all positions, and read those that pool before they run."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from decompose.algebra.execution import mean_over_positions
from decompose.layers.consumers import POINTWISE, Use, Value
from decompose.layers.modules import DecomposedLayer
from decompose.layers.survey import Survey
from decompose.methods.pooling import POOL

_MEANS = frozenset({"mean", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"})
"""Operators that take the mean of a map of any size; in ATen adaptive pooling to one pixel is ``mean``."""


def find_averaged(survey: Survey) -> set[str]:
    """Find the layers of which every output is averaged over all its positions, by full name.

    Between a layer and the mean may lie activations, which treat each position by itself. A BatchNorm
    may not: means vary less than what they are of, so that training would normalise them otherwise.

    Args:
        survey: of the model.
    """
    return {
        name
        for name, outputs in survey.consumers.outputs.items()
        if outputs and all(_is_averaged(value) for value in outputs)
    }


def averaged_as(layer: nn.Module, output: Tensor) -> Tensor:
    """The original's output, averaged over its positions where a layer pools before it runs.

    Args:
        layer: that replaces the original's.
        output: ``(batch, O, *output_size)``.
    """
    if not (isinstance(layer, DecomposedLayer) and layer.choice.method == POOL):
        return output
    return mean_over_positions(output)


def _is_averaged(value: Value) -> bool:
    return prod(value.shape[2:]) > 1 and bool(value.uses) and all(map(_leads_to_mean, value.uses))


def _leads_to_mean(use: Use) -> bool:
    if use.result is None:
        return False
    if use.operator in _MEANS:
        return use.result.shape.numel() == prod(use.result.shape[:2])
    return use.operator in POINTWISE and _is_averaged(use.result)
