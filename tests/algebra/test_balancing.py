"""Balanced factors compose to the same kernel, are alike in size, and as small as can be."""

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from decompose.algebra import Chain, Conv, Expression, Sum, balanced, compose, leaves, map_leaves
from decompose.algebra.balancing import input_energies, output_energies
from decompose.layers.modules import to_conv
from decompose.methods import METHODS
from decompose.methods.choices import Choice
from tests.support.strategies import Case, conv_cases


def energy(expression: Expression) -> float:
    """Sum of squares of all factors."""
    return sum(float(leaf.weight.square().sum()) for leaf in leaves(expression))


def pairs(expression: Expression) -> list[tuple[Expression, Expression]]:
    """Neighbours in chains, at any depth."""
    if isinstance(expression, Conv):
        return []
    inner = [pair for part in expression.parts for pair in pairs(part)]
    if isinstance(expression, Sum):
        return inner
    return [*inner, *zip(expression.parts, expression.parts[1:], strict=False)]


@given(conv_cases(), st.data())
def test_the_kernel_stays_and_its_factors_are_equal(case: Case, data: st.DataObject) -> None:
    conv = to_conv(case[0])
    able = [method for method in METHODS.values() if method.why_not(conv) is None]
    assume(able)
    method = data.draw(st.sampled_from(able))
    made = method(conv, data.draw(st.integers(1, min(3, method.max_rank(conv)))))
    lopsided = map_leaves(
        lambda leaf: Conv(leaf.weight * 7, leaf.bias, leaf.geometry, leaf.groups), made
    )
    even = balanced(lopsided)
    before, after = compose(lopsided), compose(even)
    torch.testing.assert_close(after.weight, before.weight, rtol=1e-11, atol=1e-11)
    assert (before.bias is None) == (after.bias is None)
    if before.bias is not None and after.bias is not None:
        torch.testing.assert_close(after.bias, before.bias, rtol=1e-11, atol=1e-11)
    for first, second in pairs(even):
        written, read = output_energies(first), input_energies(second)
        live = (written > 0) & (read > 0)
        torch.testing.assert_close(written[live], read[live], rtol=1e-6, atol=1e-12)
    assert energy(even) <= energy(lopsided) * (1 + 1e-9)


def test_no_other_scale_makes_nested_factors_smaller() -> None:
    conv = Conv(torch.randn(6, 5, 3, 3, dtype=torch.float64))
    made = Choice("spatial", 4, (Choice("pw_dw", 2), Choice("dw_pw", 2))).rewrite(conv)
    even = balanced(made)
    least = energy(even)
    assert isinstance(even, Chain)
    first, second = even.parts
    for factor in (0.5, 0.9, 1.1, 2.0):
        up = map_leaves(lambda c: Conv(c.weight * factor, c.bias, c.geometry, c.groups), first)  # noqa: B023
        down = map_leaves(lambda c: Conv(c.weight / factor, c.bias, c.geometry, c.groups), second)  # noqa: B023
        assert energy(up) + energy(down) > least


def test_a_bias_between_factors_is_scaled_with_its_channel() -> None:
    first = Conv(torch.randn(4, 3, 1, 1) * 10, torch.randn(4))
    second = Conv(torch.randn(5, 4, 1, 1), torch.randn(5))
    made = Chain(first, second)
    even = balanced(made)
    torch.testing.assert_close(compose(even).bias, compose(made).bias)
    assert all(leaf.weight.dtype == torch.float32 for leaf in leaves(even))


def test_a_channel_that_nothing_reads_is_left() -> None:
    weight = torch.randn(5, 4, 1, 1)
    weight[:, 2] = 0
    made = Chain(Conv(torch.randn(4, 3, 1, 1)), Conv(weight))
    even = balanced(made)
    assert all(torch.isfinite(leaf.weight).all() for leaf in leaves(even))
    torch.testing.assert_close(next(leaves(even)).weight[2], next(leaves(made)).weight[2])
