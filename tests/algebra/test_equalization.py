"""Equalised factors compute the same, and the channels between them have like ranges."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from decompose.algebra import (
    Chain,
    Conv,
    Expression,
    compose,
    equalized,
    leaves,
    map_leaves,
    middle_ranges,
    run,
)
from decompose.layers.modules import to_conv
from decompose.methods import METHODS
from decompose.methods.choices import Choice
from tests.support.strategies import Case, conv_cases


def quantisation_error(expression: Expression, x: torch.Tensor) -> float:
    """Mean squared error of the output, weights in 8 bits per channel, activations per tensor."""

    def in_steps(tensor: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
        step = largest.clamp(min=1e-30) / 127
        return (tensor / step).round() * step

    def quantised(conv: Conv) -> Conv:
        flat = conv.weight.flatten(1)
        weight = in_steps(flat, flat.abs().amax(1, keepdim=True)).view_as(conv.weight)
        return Conv(weight, conv.bias, conv.geometry, conv.groups)

    assert isinstance(expression, Chain)
    y = x
    for part in map_leaves(quantised, expression).parts:  # type: ignore[union-attr]
        y = run(part, in_steps(y, y.abs().amax()))
    return float((y - run(expression, x)).square().mean())


@settings(max_examples=25)
@given(conv_cases(), st.data())
def test_the_float_model_is_the_same_to_rounding(case: Case, data: st.DataObject) -> None:
    conv, x = to_conv(case[0]), case[1]
    able = [method for method in METHODS.values() if method.why_not(conv) is None]
    assume(able)
    method = data.draw(st.sampled_from(able))
    made = method(conv, data.draw(st.integers(1, min(3, method.max_rank(conv)))))
    ranges = middle_ranges(made, x)
    even = equalized(made, ranges)
    before, after = compose(made), compose(even)
    torch.testing.assert_close(after.weight, before.weight, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(run(even, x), run(made, x), rtol=1e-9, atol=1e-9)
    assert [leaf.weight.shape for leaf in leaves(even)] == [l.weight.shape for l in leaves(made)]


def test_nested_factors_compute_the_same() -> None:
    conv = Conv(torch.randn(6, 5, 3, 3, dtype=torch.float64), torch.randn(6, dtype=torch.float64))
    made = Choice("spatial", 4, (Choice("pw_dw", 2), Choice("dw_pw", 2))).rewrite(conv)
    x = torch.randn(2, 5, 9, 9, dtype=torch.float64)
    ranges = middle_ranges(made, x)
    assert len(ranges) == 5
    torch.testing.assert_close(run(equalized(made, ranges), x), run(made, x))


def test_before_a_depthwise_part_all_channels_get_one_range() -> None:
    conv = Conv(torch.randn(8, 6, 3, 3, dtype=torch.float64))
    made = METHODS["pw_dw"](conv, 2)
    x = torch.randn(2, 6, 9, 9, dtype=torch.float64)
    for passing in middle_ranges(equalized(made, middle_ranges(made, x)), x):
        torch.testing.assert_close(passing, torch.ones_like(passing))


def test_what_is_equalised_quantises_better() -> None:
    scale = torch.logspace(-2, 2, 12, dtype=torch.float64)
    made = Chain(
        Conv(torch.randn(12, 6, dtype=torch.float64) * scale[:, None]),
        Conv(torch.randn(7, 12, dtype=torch.float64) / scale),
    )
    x = torch.randn(50, 6, dtype=torch.float64)
    even = equalized(made, middle_ranges(made, x))
    assert quantisation_error(even, x) < 0.05 * quantisation_error(made, x)


def test_channels_that_nothing_passes_stay_as_they_are() -> None:
    made = Chain(Conv(torch.tensor([[0.0], [2.0], [1.0]])), Conv(torch.tensor([[1.0, 1.0, 0.0]])))
    even = equalized(made, middle_ranges(made, torch.ones(1, 1)))
    first, second = leaves(even)
    assert first.weight[0].item() == 0
    assert second.weight[0, 0].item() == 1
    assert first.weight[2].item() == 1
    assert torch.isfinite(first.weight).all()
    assert torch.isfinite(second.weight).all()
