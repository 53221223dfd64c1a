"""Regression of the last factors of an expression on targets.

Where they are ordinary convolutions, all their weights are (``algebra.features``); where one is
transposed, or they fall into different groups, the scale of each output channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

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
    on_patches,
    patches,
    run,
    scale_outputs,
    strided_outputs,
    subsampling_for,
    with_last_weights,
)
from decompose.compression.reconstruction.ridge import Fit

_ROWS_PER_UNKNOWN = 64
"""Rows that a regression sees for each of its weights, more or less: neighbours are nearly alike."""

_FEWEST_POSITIONS, _MOST_POSITIONS = 512, 4096
"""Positions of one input's output that a regression sees, more or less."""

_FEWEST_PATCHES = 64
"""Those of one input that a fit of all factors sees: they have more numbers than features of last factors.
With half as many, CIFAR-10's ResNet-20 lost 0.1 points more at half its MACs."""

_MOST_FEATURES = 8192


@dataclass(frozen=True, eq=False)
class Targets:
    """Outputs of the original's layer, at the positions that a regression samples.

    Attributes:
        rows: ``(num_positions, O)``, in float32 at least.
        strides: which positions of the output these are.
        conv: the convolution.
    """

    rows: Tensor
    strides: Subsampling
    conv: Conv

    @classmethod
    def of(cls, conv: Conv, output: Tensor, most: int = _MOST_POSITIONS) -> Targets:
        """Sample the output ``(batch, O, *output_size)`` of a convolution.

        Args:
            conv: the convolution.
            output: its output.
            most: positions, more or less.
        """
        strides = subsampling_for(output.shape, conv.geometry.num_axes, most)
        kept = at_least_float32(output[:: strides.inputs])
        return cls(strided_outputs(conv, kept, strides.positions), strides, conv)


def samples_of(expression: Expression, seen: Tensor, wanted: Targets) -> tuple[Tensor, Tensor]:
    """Sample features and targets for the regression of a layer's last factors, or of channels' scales.

    Args:
        expression: in float32 at least.
        seen: input of the layer.
        wanted: targets for its output.

    Returns:
        ``(groups, n, F)`` and ``(groups, n, O / groups)``; where scales are fitted, each channel
        is a group. Rows that are not finite are left out.
    """
    expression, x, step = _at_positions(expression, seen, wanted)
    conv, rows = last_factors(expression)[0].conv, wanted.rows
    if can_refit(expression):
        targets = rows.unflatten(1, (conv.groups, -1)).transpose(0, 1)
        inputs, targets = finite_rows(features(expression, x, step), targets)
        return inputs, targets
    bias = bias_of(expression)
    outputs = strided_outputs(conv, run(expression, x), step)
    unbiased = outputs if bias is None else outputs - bias
    inputs, targets = finite_rows(unbiased.T.unsqueeze(2), rows.T.unsqueeze(2))
    return inputs, targets


def outputs_at(expression: Expression, seen: Tensor, wanted: Targets) -> tuple[Tensor, Tensor]:
    """Outputs of a layer, and those that it should have.

    Args:
        expression: in float32 at least.
        seen: input of the layer.
        wanted: what it should make of it.

    Returns:
        ``(n, O)`` each. Rows that are not finite are left out.
    """
    expression, x, step = _at_positions(expression, seen, wanted)
    outputs = strided_outputs(last_factors(expression)[0].conv, run(expression, x), step)
    given, expected = finite_rows(outputs, wanted.rows, axis=0)
    return given, expected


def _at_positions(
    expression: Expression, seen: Tensor, wanted: Targets
) -> tuple[Expression, Tensor, int]:
    """An expression, an input for it, and the step between the positions sampled of its output."""
    every, step = wanted.strides
    x = at_least_float32(seen[::every])
    # Of a single factor the patches are the features, which ``features`` copies sooner.
    if not isinstance(expression, Conv) and _is_quicker_on_patches(
        wanted.conv, x, len(wanted.rows)
    ):
        return on_patches(expression), patches(wanted.conv, x, step), 1
    return expression, x, step


def _is_quicker_on_patches(conv: Conv, x: Tensor, num_positions: int) -> bool:
    """Whether the patches at the positions hold less than the whole input."""
    axes = conv.geometry.num_axes
    if axes == 0 or conv.geometry.transposed:
        return False
    return num_positions * conv.num_taps < len(x) * prod(x.shape[-axes:])


def positions_of_each(num_features: int, num_inputs: int) -> int:
    """Number of positions of each input's output that a regression of the last factors needs.

    Args:
        num_features: unknowns of each target.
        num_inputs: inputs that it is fitted to, their views included.
    """
    return _enough(num_features, num_inputs, _FEWEST_POSITIONS)


def patches_of_each(num_features: int, num_inputs: int) -> int:
    """Number of patches of each input that a fit of all factors needs.

    Args:
        num_features: numbers of a patch.
        num_inputs: inputs that it is fitted to, their views included.
    """
    return _enough(num_features, num_inputs, _FEWEST_PATCHES)


def _enough(num_features: int, num_inputs: int, fewest: int) -> int:
    wanted = -(-_ROWS_PER_UNKNOWN * num_features // num_inputs)
    return min(_MOST_POSITIONS, max(fewest, wanted))


def can_refit(expression: Expression) -> bool:
    """Whether the last factors are one linear map of patches."""
    convs = [factor.conv for factor in last_factors(expression)]
    groups = {conv.groups for conv in convs}
    num_features = sum(conv.weight[0].numel() for conv in convs)
    scatters = any(conv.geometry.transposed for conv in convs)
    return len(groups) == 1 and not scatters and num_features <= _MOST_FEATURES


def refitted(expression: Expression, fit: Fit) -> Expression:
    """Replace the last factors and the bias of an expression by a fit to ``samples_of``."""
    weight = next(leaves(expression)).weight
    weights, bias = fit.weights.to(weight), fit.bias.flatten().to(weight)
    if can_refit(expression):
        return with_last_weights(expression, weights, bias)
    return scale_outputs(expression, weights.flatten(), bias)


def prior_of(expression: Expression) -> Tensor:
    """Prior weights of a fit to ``samples_of``, ``(groups, O / groups, F)`` in float64."""
    if can_refit(expression):
        return last_weights(expression).double().cpu()
    outputs = last_factors(expression)[0].conv.out_channels
    return torch.ones(outputs, 1, 1, dtype=torch.float64)
