"""What holds for every method, on every kind of convolution. A new method joins by existing."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from decompose.algebra import Deviation, compose, leaves, macs, params, run, weight_deviation
from decompose.errors import DecomposeError
from decompose.methods import METHODS, get_method
from decompose.modules import to_conv, to_expression, to_module
from tests.strategies import Case, conv_cases, spatial

CASES = conv_cases().filter(spatial)
EVEN = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
EVERY_METHOD = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@EVEN
@EVERY_METHOD
@given(CASES)
def test_full_rank_is_exact(method, case: Case) -> None:
    module, x = case
    conv = to_conv(module)
    expression = method(conv, method.max_rank(conv))
    assert Deviation.between(run(expression, x), module(x).detach()).relative < (1e-10) ** 2
    assert weight_deviation(expression, conv).relative < 1e-20


@EVEN
@EVERY_METHOD
@given(CASES, st.data())
def test_the_composed_kernel_the_expression_and_the_module_agree(
    method, case: Case, data: st.DataObject
) -> None:
    module, x = case
    conv = to_conv(module)
    rank = data.draw(st.integers(1, method.max_rank(conv)))
    expression = method(conv, rank)
    expected = run(compose(expression), x)
    torch.testing.assert_close(run(expression, x), expected, rtol=1e-10, atol=1e-10)
    built = to_module(expression)
    with FlopCounterMode(display=False) as counter:
        y = built(x)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    assert 2 * len(x) * macs(expression, x.shape[2:]) == counter.get_total_flops()
    assert params(expression) == sum(parameter.numel() for parameter in built.parameters())
    assert macs(to_expression(built), x.shape[2:]) == macs(expression, x.shape[2:])


@EVEN
@EVERY_METHOD
@given(CASES)
def test_the_error_falls_with_rank_as_the_energy_says(method, case: Case) -> None:
    conv = to_conv(case[0])
    ranks = range(1, method.max_rank(conv) + 1)
    errors = [weight_deviation(method(conv, rank), conv).relative for rank in ranks]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(errors))
    energy = method.energy(conv)
    assert energy.shape == (len(ranks),)
    assert float(energy[-1]) == pytest.approx(1)
    assert bool((energy.diff() >= -1e-12).all())
    for threshold in (0.3, 0.9, float(energy[0]), 1.0):
        rank = method.rank_for_energy(conv, threshold)
        assert float(energy[rank - 1]) >= min(threshold, float(energy[-1])) - 1e-12
        assert rank == 1 or float(energy[rank - 2]) < threshold


@EVEN
@EVERY_METHOD
@given(CASES)
def test_shapes_follow_without_weights(method, case: Case) -> None:
    conv = to_conv(case[0])
    priced, made = method(conv.without_weights(), 1), method(conv, 1)
    assert all(leaf.weight.is_meta for leaf in leaves(priced))
    assert [
        (leaf.weight.shape, leaf.bias is None, leaf.geometry, leaf.groups)
        for leaf in leaves(priced)
    ] == [
        (leaf.weight.shape, leaf.bias is None, leaf.geometry, leaf.groups) for leaf in leaves(made)
    ]


@EVERY_METHOD
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_is_kept(method, dtype: torch.dtype) -> None:
    module = torch.nn.Conv2d(6, 5, 3).to(dtype)
    conv = to_conv(module)
    expression = method(conv, method.max_rank(conv))
    assert {leaf.weight.dtype for leaf in leaves(expression)} == {dtype}
    assert weight_deviation(expression, conv).relative < torch.finfo(dtype).eps ** 2 * 100


@EVERY_METHOD
def test_the_original_and_its_memory_are_left_alone(method) -> None:
    module = torch.nn.Conv2d(4, 4, 3)
    conv, before = to_conv(module), module.weight.detach().clone()
    for leaf in leaves(method(conv, method.max_rank(conv))):
        leaf.weight.zero_()
        if leaf.bias is not None:
            leaf.bias.zero_()
    assert torch.equal(module.weight, before)
    assert module.bias is not None
    assert bool(module.bias.abs().sum() > 0)


@EVERY_METHOD
@pytest.mark.parametrize("rank", [0, -1, 10])
def test_a_rank_out_of_bounds_tells_the_bound(method, rank: int) -> None:
    conv = to_conv(torch.nn.Conv2d(16, 16, 3))
    bound = method.max_rank(conv)
    with pytest.raises(
        DecomposeError, match=f"rank {max(rank, -1) if rank < 1 else bound + 1} .* 1 to {bound}"
    ):
        method(conv, rank if rank < 1 else bound + 1)


@EVERY_METHOD
@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.5])
def test_an_energy_out_of_bounds_is_refused(method, threshold: float) -> None:
    with pytest.raises(DecomposeError, match="out of bounds"):
        method.rank_for_energy(to_conv(torch.nn.Conv2d(3, 3, 3)), threshold)


@EVERY_METHOD
def test_gradients_flow_to_every_factor(method) -> None:
    built = to_module(method(to_conv(torch.nn.Conv2d(4, 4, 3)), 2))
    built(torch.randn(1, 4, 6, 6)).square().sum().backward()
    for parameter in built.parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.norm()) > 0


def test_an_unknown_method_lists_those_that_exist() -> None:
    with pytest.raises(DecomposeError, match=", ".join(METHODS)):
        get_method("svd")
