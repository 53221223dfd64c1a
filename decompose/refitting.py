"""The last factors of an expression as unknowns of a regression.

Where they are ordinary convolutions, all their weights are (``algebra.features``); where one is
transposed, or they fall into different groups, the scale of each output channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from decompose.algebra import (
    Expression,
    at_least_float32,
    bias_of,
    features,
    last_factors,
    last_weights,
    leaves,
    places,
    scale_outputs,
    step_for,
    with_last_weights,
)
from decompose.regression import Fit, Rows

_MOST_PLACES = 4096
"""Places of one output that a regression sees, more or less: neighbours tell little anew."""

_MOST_FEATURES = 8192


def rows_of(expression: Expression, seen: Tensor, given: Tensor, wanted: Tensor) -> Rows:
    """Rows for the regression of a layer's last factors, or of its channels' scales.

    Args:
        expression: in float32 at least.
        seen: input of the layer.
        given: what the expression makes of it.
        wanted: what the original made of its own input.
    """
    conv = last_factors(expression)[0].conv
    num_axes = conv.geometry.num_axes
    step = step_for(wanted.shape[wanted.ndim - num_axes :] if num_axes else (), _MOST_PLACES)
    seen, given, wanted = map(at_least_float32, (seen, given, wanted))
    targets = places(conv, wanted, step)
    if can_refit(expression):
        targets = targets.unflatten(1, (conv.groups, -1)).transpose(0, 1)
        return Rows.of(features(expression, seen, step), targets)
    bias = bias_of(expression)
    outputs = places(conv, given, step)
    unbiased = outputs if bias is None else outputs - bias
    return Rows.of(unbiased.T.unsqueeze(2), targets.T.unsqueeze(2))


def can_refit(expression: Expression) -> bool:
    """Whether the last factors are one linear map of patches."""
    convs = [factor.conv for factor in last_factors(expression)]
    groups = {conv.groups for conv in convs}
    num_features = sum(conv.weight[0].numel() for conv in convs)
    scatters = any(conv.geometry.transposed for conv in convs)
    return len(groups) == 1 and not scatters and num_features <= _MOST_FEATURES


def refitted(expression: Expression, fit: Fit) -> Expression:
    """The expression with what a fit to ``rows_of`` says."""
    weight = next(leaves(expression)).weight
    weights, bias = fit.weights.to(weight), fit.bias.flatten().to(weight)
    shift = None if bias_of(expression) is None else bias
    if can_refit(expression):
        return with_last_weights(expression, weights, shift)
    return scale_outputs(expression, weights.flatten(), shift)


def prior_of(expression: Expression) -> Tensor:
    """What a fit to ``rows_of`` starts from, ``(groups, O / groups, F)`` in float64."""
    if can_refit(expression):
        return last_weights(expression).double().cpu()
    outputs = last_factors(expression)[0].conv.out_channels
    return torch.ones(outputs, 1, 1, dtype=torch.float64)
