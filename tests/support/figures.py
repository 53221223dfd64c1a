"""What a model costs, and how far a smaller one is from it."""

from __future__ import annotations

from torch import Tensor, nn

from decompose.evaluation.comparison import compare
from decompose.layers.costs import count_macs, trace_shapes


def counted(model: nn.Module, example: Tensor) -> int:
    """MACs of all layers for one input."""
    return sum(count_macs(model, trace_shapes(model, example)).values())


def error_of(model: nn.Module, small: nn.Module, images: Tensor) -> float:
    """Relative squared error of the output on some images."""
    error = compare(model, small, images).output_error
    assert error is not None
    return error
