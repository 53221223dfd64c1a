"""The last factors of an expression as unknowns of a regression.

Where they are ordinary convolutions, all their weights are (``algebra.features``); where one is
transposed, or they fall into different groups, the scale of each output channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from decompose.algebra import (
    Conv,
    Expression,
    Subsampling,
    at_least_float32,
    bias_of,
    features,
    finite_rows,
    last_factors,
    last_weights,
    leaves,
    run,
    scale_outputs,
    strided_outputs,
    subsampling_for,
    with_last_weights,
)
from decompose.compression.reconstruction.ridge import Fit

_MOST_POSITIONS = 4096
"""Places of one output that a regression sees, more or less."""

_POSITIONS_OF_EACH = 512
"""The same of each of several inputs that pass together, at least."""

_MOST_FEATURES = 8192


@dataclass(frozen=True, eq=False)
class Targets:
    """What the original makes of its own input, at the places that a regression sees.

    Attributes:
        rows: ``(num_positions, O)``, in float32 at least.
        strides: which places of the output these are.
    """

    rows: Tensor
    strides: Subsampling

    @classmethod
    def of(cls, conv: Conv, output: Tensor, num_inputs: int = 1) -> Targets:
        """Take them from the output ``(batch, O, *output_size)`` of a convolution.

        Args:
            conv: the convolution.
            output: its output.
            num_inputs: inputs of the model that passed together.
        """
        most = max(_MOST_POSITIONS, _POSITIONS_OF_EACH * num_inputs)
        strides = subsampling_for(output.shape, conv.geometry.num_axes, most)
        kept = at_least_float32(output[:: strides.inputs])
        return cls(strided_outputs(conv, kept, strides.positions), strides)


def samples_of(expression: Expression, seen: Tensor, wanted: Targets) -> tuple[Tensor, Tensor]:
    """Features and targets for the regression of a layer's last factors, or of channels' scales.

    Args:
        expression: in float32 at least.
        seen: input of the layer.
        wanted: what it should make of it.

    Returns:
        ``(groups, n, F)`` and ``(groups, n, O / groups)``; where scales are fitted, each channel
        is a group. Rows that are not finite are left out.
    """
    conv = last_factors(expression)[0].conv
    every, step = wanted.strides
    seen, rows = at_least_float32(seen[::every]), wanted.rows
    if can_refit(expression):
        targets = rows.unflatten(1, (conv.groups, -1)).transpose(0, 1)
        inputs, targets = finite_rows(features(expression, seen, step), targets)
        return inputs, targets
    bias = bias_of(expression)
    outputs = strided_outputs(conv, run(expression, seen), step)
    unbiased = outputs if bias is None else outputs - bias
    inputs, targets = finite_rows(unbiased.T.unsqueeze(2), rows.T.unsqueeze(2))
    return inputs, targets


def can_refit(expression: Expression) -> bool:
    """Whether the last factors are one linear map of patches."""
    convs = [factor.conv for factor in last_factors(expression)]
    groups = {conv.groups for conv in convs}
    num_features = sum(conv.weight[0].numel() for conv in convs)
    scatters = any(conv.geometry.transposed for conv in convs)
    return len(groups) == 1 and not scatters and num_features <= _MOST_FEATURES


def refitted(expression: Expression, fit: Fit) -> Expression:
    """The expression with what a fit to ``samples_of`` says; it has a bias, whatever it had."""
    weight = next(leaves(expression)).weight
    weights, bias = fit.weights.to(weight), fit.bias.flatten().to(weight)
    if can_refit(expression):
        return with_last_weights(expression, weights, bias)
    return scale_outputs(expression, weights.flatten(), bias)


def prior_of(expression: Expression) -> Tensor:
    """What a fit to ``samples_of`` starts from, ``(groups, O / groups, F)`` in float64."""
    if can_refit(expression):
        return last_weights(expression).double().cpu()
    outputs = last_factors(expression)[0].conv.out_channels
    return torch.ones(outputs, 1, 1, dtype=torch.float64)
