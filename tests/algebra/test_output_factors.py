"""The last factors: the output is linear in them."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from decompose import Choice
from decompose.algebra import (
    bias_of,
    features,
    last_factors,
    last_weights,
    run,
    scale_outputs,
    strided_outputs,
    with_last_weights,
)
from decompose.layers.modules import to_conv
from tests.support.strategies import Case, conv_cases, spatial

CHOICES = [
    Choice("pw_dw", 1),
    Choice("dw_pw", 1),
    Choice("channel", 1),
    Choice("channel", 1, (Choice("pw_dw", 1), None)),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(conv_cases(), st.sampled_from(CHOICES))
def test_the_output_is_their_weights_times_their_features(case: Case, choice: Choice) -> None:
    assume(spatial(case))
    conv, x = to_conv(case[0]), case[1]
    expression = choice.rewrite(conv)
    output, bias = run(expression, x), bias_of(expression)
    if any(factor.conv.geometry.transposed for factor in last_factors(expression)):
        assume(False)
    weights = last_weights(expression)
    product = (features(expression, x) @ weights.mT).transpose(0, 1).flatten(1)
    given = strided_outputs(conv, output)
    torch.testing.assert_close(product if bias is None else product + bias, given)
    again = with_last_weights(expression, weights, bias)
    torch.testing.assert_close(run(again, x), output)
    doubled = with_last_weights(expression, 2 * weights, None)
    torch.testing.assert_close(strided_outputs(conv, run(doubled, x)), 2 * product)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(conv_cases(), st.sampled_from(CHOICES))
def test_outputs_are_scaled_channel_by_channel(case: Case, choice: Choice) -> None:
    assume(spatial(case))
    conv, x = to_conv(case[0]), case[1]
    expression = choice.rewrite(conv)
    scale = torch.randn(conv.out_channels, dtype=torch.float64)
    shape = (-1, *[1] * conv.geometry.num_axes)
    bias = bias_of(expression)
    unbiased = run(expression, x) - (0 if bias is None else bias.view(shape))
    scaled = run(scale_outputs(expression, scale, None), x)
    torch.testing.assert_close(scaled, unbiased * scale.view(shape))
