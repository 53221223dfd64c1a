"""Outputs at single positions agree with those of convolutions."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from decompose.algebra import (
    Chain,
    Conv,
    Expression,
    FactorOutputs,
    Sum,
    on_patches,
    run,
    run_on_patches,
    truncations_on_patches,
)
from decompose.layers.modules import to_conv
from decompose.methods import METHODS
from tests.support.strategies import Case, conv_cases


def _patches(conv: Conv, num: int = 5) -> torch.Tensor:
    return torch.randn(num, conv.in_channels, *conv.kernel_size, dtype=torch.float64)


@given(conv_cases(), st.sampled_from(sorted(METHODS)), st.data())
def test_an_expression_gives_what_its_convolutions_give(
    case: Case, name: str, data: st.DataObject
) -> None:
    conv, method = to_conv(case[0]), METHODS[name]
    expression: Expression = conv
    if method.why_not(conv) is None and not method.iterates:
        expression = method(conv, data.draw(st.integers(1, method.max_rank(conv))))
    x = _patches(conv)
    torch.testing.assert_close(
        run_on_patches(expression, x.movedim(1, -1)), run(on_patches(expression), x).flatten(1)
    )


def test_so_do_fully_connected_layers_and_factors_in_few_groups() -> None:
    linear = Conv(torch.randn(3, 5), torch.randn(3))
    x = torch.randn(4, 5)
    torch.testing.assert_close(run_on_patches(linear, x), run(linear, x))
    grouped = Conv(torch.randn(8, 2, 3, 1), groups=4)
    mixed = Chain(grouped, Conv(torch.randn(6, 8, 1, 3), torch.randn(6)))
    x = torch.randn(4, 8, 3, 3)
    expected = run(mixed, x).flatten(1)
    torch.testing.assert_close(run_on_patches(mixed, x.movedim(1, -1)), expected)


def test_outputs_of_shared_factors_are_kept() -> None:
    first, second, third = Conv(torch.randn(4, 5)), Conv(torch.randn(3, 4)), Conv(torch.randn(3, 4))
    x, outputs = torch.randn(6, 5), FactorOutputs()
    for expression in (Chain(first, second), Sum(Chain(first, second), Chain(first, third))):
        expected = run_on_patches(expression, x)
        assert torch.equal(run_on_patches(expression, x, outputs), expected)
    assert outputs(first, x) is outputs(first, x)
    assert outputs(first, x.clone()) is not outputs(first, x)


@given(conv_cases(groups=False), st.sampled_from(sorted(METHODS)))
def test_the_ranks_of_a_nested_method_are_truncations_of_the_highest(case: Case, name: str) -> None:
    conv, method = to_conv(case[0]), METHODS[name]
    if method.why_not(conv) is not None or not method.is_nested:
        return
    of_rank = method.prepare_quickly(conv)
    ranks = range(1, method.max_rank(conv) + 1)
    x = _patches(conv).movedim(1, -1)
    outlines = [method(conv.without_weights(), rank) for rank in ranks]
    found = list(truncations_on_patches(of_rank(ranks[-1]), x, outlines))
    assert len(found) == len(ranks)
    for rank, y in zip(ranks, found, strict=True):
        torch.testing.assert_close(y, run_on_patches(of_rank(rank), x))
