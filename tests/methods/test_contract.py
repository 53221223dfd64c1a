"""The contract of every method, on every kind of convolution. A new method joins by existing."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import decompose
from decompose import Choice, Plan
from decompose.algebra import (
    Conv,
    Deviation,
    Expression,
    compose,
    leaves,
    params,
    run,
    weight_deviation,
)
from decompose.layers.costs import expression_macs
from decompose.layers.modules import Decomposable, to_conv, to_expression, to_module
from decompose.methods import METHODS, Method, get_method
from decompose.utils.errors import DecomposeError
from tests.support.strategies import Case, conv_cases

EVEN = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
EVERY_METHOD = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
CLOSED_FORMS = [method for method in METHODS.values() if not method.iterates]
CLOSED_FORM = pytest.mark.parametrize("method", CLOSED_FORMS, ids=lambda method: method.name)
# Some methods take few of the random convolutions.
CHOOSY = settings(suppress_health_check=[HealthCheck.filter_too_much], max_examples=30)
MOST_TRIED = 3  # ranks of a method that iterates: higher ones take long


def taken(method: Method, case: Case) -> Conv:
    """The case's convolution, if the method takes it."""
    conv = to_conv(case[0])
    assume(method.why_not(conv) is None)
    return conv


def example_for(method: Method, channels: int = 6) -> Decomposable:
    """A convolution that the method takes."""
    spatial = nn.Conv2d(channels, channels, 3)
    return nn.Conv2d(channels, channels, 1) if method.why_not(to_conv(spatial)) else spatial


def draw_rank(data: st.DataObject, method: Method, conv: Conv) -> int:
    """A rank within bounds that does not take long."""
    bound = method.max_rank(conv)
    return data.draw(st.integers(1, min(bound, MOST_TRIED) if method.iterates else bound))


def require_agreement(expression: Expression, x: torch.Tensor) -> None:
    """The expression, its composed kernel and its module compute the same, at the cost counted."""
    expected = run(compose(expression), x)
    torch.testing.assert_close(run(expression, x), expected, rtol=1e-9, atol=1e-9)
    built = to_module(expression)
    with FlopCounterMode(display=False) as counter:
        y = built(x)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    assert 2 * expression_macs(expression, tuple(x.shape)) == counter.get_total_flops()
    assert params(expression) == sum(parameter.numel() for parameter in built.parameters())
    assert params(to_expression(built)) == params(expression)


@EVEN
@CLOSED_FORM
@CHOOSY
@given(conv_cases())
def test_full_rank_is_exact(method: Method, case: Case) -> None:
    conv = taken(method, case)
    module, x = case
    expression = method(conv, method.max_rank(conv))
    assert Deviation.between(run(expression, x), module(x).detach()).relative < (1e-10) ** 2
    assert weight_deviation(expression, conv).relative < 1e-20


@EVEN
@EVERY_METHOD
@CHOOSY
@given(conv_cases(), st.data())
def test_kernel_expression_module_and_cost_agree(
    method: Method, case: Case, data: st.DataObject
) -> None:
    conv = taken(method, case)
    require_agreement(method(conv, draw_rank(data, method, conv)), case[1])


@EVEN
@CHOOSY
@given(conv_cases(), st.sampled_from(CLOSED_FORMS), st.data())
def test_and_so_they_do_in_random_nestings(case: Case, method: Method, data: st.DataObject) -> None:
    conv = taken(method, case)
    choice = _nested(data, method, conv, depth=2)
    require_agreement(choice.rewrite(conv), case[1])
    priced = choice.rewrite(conv.without_weights())
    assert [leaf.weight.shape for leaf in leaves(priced)] == [
        leaf.weight.shape for leaf in leaves(choice.rewrite(conv))
    ]


@EVEN
@CHOOSY
@given(conv_cases(), st.sampled_from(CLOSED_FORMS), st.data())
def test_nestings_at_full_rank_are_exact(case: Case, method: Method, data: st.DataObject) -> None:
    conv = taken(method, case)
    choice = _nested(data, method, conv, depth=1, full=True)
    assert weight_deviation(choice.rewrite(conv), conv).relative < 1e-18


@EVEN
@CLOSED_FORM
@CHOOSY
@given(conv_cases())
def test_the_error_falls_with_rank_as_the_energy_says(method: Method, case: Case) -> None:
    conv = taken(method, case)
    bound = method.max_rank(conv)
    errors = [weight_deviation(method(conv, rank), conv).relative for rank in range(1, bound + 1)]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(errors))
    foretold = method.errors(conv)
    assert foretold.shape == (bound,)
    assert all(e <= f + 1e-9 for e, f in zip(errors, foretold.tolist(), strict=True))
    energy = method.energy(conv)
    assert energy.shape == (bound,)
    assert float(energy[-1]) == pytest.approx(1)
    assert bool((energy.diff() >= -1e-12).all())
    for threshold in (0.3, 0.9, float(energy[0].clamp(max=1)), 1.0):
        rank = method.rank_for_energy(conv, threshold)
        assert rank <= bound
        assert float(energy[rank - 1]) >= threshold - 1e-9
        assert rank == 1 or float(energy[rank - 2]) < threshold


@EVEN
@EVERY_METHOD
@CHOOSY
@given(conv_cases(), st.data())
def test_shapes_follow_without_weights(method: Method, case: Case, data: st.DataObject) -> None:
    conv = taken(method, case)
    rank = draw_rank(data, method, conv)
    made, priced = method(conv, rank), method(conv.without_weights(), rank)
    assert all(leaf.weight.is_meta for leaf in leaves(priced))
    for drafted in (priced, method.prepare_quickly(conv)(rank)):
        assert [
            (leaf.weight.shape, leaf.bias is None, leaf.geometry, leaf.groups)
            for leaf in leaves(drafted)
        ] == [
            (leaf.weight.shape, leaf.bias is None, leaf.geometry, leaf.groups)
            for leaf in leaves(made)
        ]


@EVEN
@CLOSED_FORM
@CHOOSY
@given(conv_cases(), st.data())
def test_a_draft_loses_no_less(method: Method, case: Case, data: st.DataObject) -> None:
    conv = taken(method, case)
    rank = draw_rank(data, method, conv)
    real = weight_deviation(method(conv, rank), conv).relative
    assert real <= weight_deviation(method.prepare_quickly(conv)(rank), conv).relative + 1e-9


@CLOSED_FORM
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_is_kept(method: Method, dtype: torch.dtype) -> None:
    conv = to_conv(example_for(method).to(dtype))
    expression = method(conv, method.max_rank(conv))
    assert {leaf.weight.dtype for leaf in leaves(expression)} == {dtype}
    assert weight_deviation(expression, conv).relative < torch.finfo(dtype).eps ** 2 * 1000


@EVERY_METHOD
def test_the_original_and_its_memory_are_left_alone(method: Method) -> None:
    module = example_for(method)
    conv, before = to_conv(module), module.weight.detach().clone()
    for leaf in leaves(method(conv, min(method.max_rank(conv), MOST_TRIED))):
        leaf.weight.zero_()
        if leaf.bias is not None:
            leaf.bias.zero_()
    assert torch.equal(module.weight, before)
    assert module.bias is not None
    assert bool(module.bias.abs().sum() > 0)


@EVERY_METHOD
def test_factors_hold_no_more_memory_than_they_need(method: Method) -> None:
    for leaf in leaves(method(to_conv(example_for(method)), 1)):
        assert leaf.weight.untyped_storage().nbytes() == leaf.weight.nbytes
        assert leaf.weight.is_contiguous()


@EVERY_METHOD
def test_files_are_read_back_bit_for_bit(method: Method, tmp_path: Path) -> None:
    model = nn.Sequential(example_for(method), nn.Linear(4, 3))
    small = decompose.apply(Plan({"0": Choice(method.name, 2)}), model)
    decompose.save(small, tmp_path / "small.safetensors")
    again = decompose.load(tmp_path / "small.safetensors", model)
    x = torch.randn(1, 6, 6, 6)
    assert torch.equal(again.get_submodule("0")(x), small.get_submodule("0")(x))


@EVERY_METHOD
@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_a_rank_out_of_bounds_tells_the_bound(method: Method, beyond: int) -> None:
    conv = to_conv(example_for(method))
    bound = method.max_rank(conv)
    wrong = bound + 1 if beyond > 0 else beyond
    with pytest.raises(DecomposeError, match=f"rank {wrong} .* 1 to {bound}"):
        method(conv, wrong)


@EVERY_METHOD
def test_what_it_cannot_take_it_says(method: Method) -> None:
    depthwise = to_conv(nn.Conv2d(4, 4, 1, groups=4))
    assert method.why_not(depthwise)
    with pytest.raises(DecomposeError, match=f"{method.name} cannot take it: "):
        method(depthwise, 1)


@CLOSED_FORM
@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.5])
def test_an_energy_out_of_bounds_is_refused(method: Method, threshold: float) -> None:
    with pytest.raises(DecomposeError, match="out of bounds"):
        method.rank_for_energy(to_conv(example_for(method)), threshold)


@EVERY_METHOD
def test_gradients_flow_to_every_factor(method: Method) -> None:
    built = to_module(method(to_conv(example_for(method)), 2))
    built(torch.randn(1, 6, 6, 6)).square().sum().backward()
    for parameter in built.parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.norm()) > 0


def test_an_unknown_method_lists_those_that_exist() -> None:
    with pytest.raises(DecomposeError, match=", ".join(METHODS)):
        get_method("svdd")


def _nested(
    data: st.DataObject, method: Method, conv: Conv, depth: int, *, full: bool = False
) -> Choice:
    """A random choice for a convolution, and for the factors that it makes, to some depth."""
    rank = method.max_rank(conv) if full else draw_rank(data, method, conv)
    then: list[Choice | None] = []
    for factor in leaves(method(conv.without_weights(), rank)) if depth else ():
        able = [inner for inner in CLOSED_FORMS if inner.why_not(factor) is None]
        inner = data.draw(st.sampled_from([None, *able]))
        then.append(None if inner is None else _nested(data, inner, factor, depth - 1, full=full))
    return Choice(method.name, rank, tuple(then))
