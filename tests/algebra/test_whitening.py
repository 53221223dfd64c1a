"""Whitened coordinates: there and back is exact, and truncation there is best for the output."""

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from decompose import Choice
from decompose.algebra import Conv, Whitening, compose, leaves, with_groups
from decompose.layers.modules import to_conv
from decompose.methods import METHODS, get_method
from tests.support.strategies import Case, conv_cases

CLOSED_FORMS = [name for name, method in METHODS.items() if not method.iterates]
NESTED = Choice("spatial", 4, (Choice("pw_dw", 1), Choice("dw_pw", 1)))


def covariance(size: int, *batch: int) -> Tensor:
    root = torch.randn(*batch, size, size + 2, dtype=torch.float64)
    return root @ root.mT


def whitening(conv: Conv, softness: float = 1e-9) -> Whitening:
    depth = conv.in_channels // conv.groups
    return Whitening.of(
        covariance(depth, conv.groups), [covariance(taps) for taps in conv.kernel_size], softness
    )


@pytest.mark.parametrize("name", CLOSED_FORMS)
@settings(suppress_health_check=[HealthCheck.filter_too_much], max_examples=30)
@given(case=conv_cases())
def test_full_rank_is_exact_in_any_coordinates(name: str, case: Case) -> None:
    conv, method = to_conv(case[0]), get_method(name)
    assume(method.why_not(conv) is None)
    rewritten = Choice(name, method.max_rank(conv)).rewrite(conv, whitening(conv, 0.1))
    dense = with_groups(compose(rewritten), conv.groups)
    torch.testing.assert_close(dense.weight, conv.weight, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("choice", [Choice("dw_pw", 2), Choice("tucker", 3), NESTED])
def test_shapes_are_those_of_the_plain_rewriting(choice: Choice) -> None:
    conv = to_conv(nn.Conv2d(6, 8, (3, 5), dtype=torch.float64))
    plain, white = choice.rewrite(conv), choice.rewrite(conv, whitening(conv))
    shapes = [[leaf.weight.shape for leaf in leaves(e)] for e in (plain, white)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ["channel", "spatial", "tucker", "pw_dw", "svd"])
def test_where_the_covariance_is_a_product_the_outputs_error_falls(name: str) -> None:
    torch.manual_seed(0)
    conv = to_conv(nn.Conv2d(6, 8, 1 if name == "svd" else 3, dtype=torch.float64))
    product = channels = covariance(6, 1)
    taps = [covariance(size) for size in conv.kernel_size]
    for axis in taps:
        product = torch.kron(product[0], axis).unsqueeze(0)
    method, exact = get_method(name), Whitening.of(channels, taps, 1e-12)

    def output_error(rank: int, coordinates: Whitening | None) -> float:
        made = compose(Choice(name, rank).rewrite(conv, coordinates))
        difference = (made.weight - conv.weight).flatten(1)
        return float(((difference @ product[0]) * difference).sum())

    for rank in range(1, method.max_rank(conv)):
        assert output_error(rank, exact) < output_error(rank, None) * (1 + 1e-9)


def test_all_softness_leaves_the_kernels_own_coordinates() -> None:
    conv = to_conv(nn.Conv2d(4, 4, 3, dtype=torch.float64))
    soft = Choice("channel", 2).rewrite(conv, whitening(conv, 1e9))
    plain = Choice("channel", 2).rewrite(conv)
    torch.testing.assert_close(compose(soft).weight, compose(plain).weight, atol=1e-6, rtol=1e-6)


def test_an_input_of_zeros_leaves_them_too() -> None:
    conv = to_conv(nn.Conv2d(4, 4, 3, dtype=torch.float64))
    dead = Whitening.of(torch.zeros(1, 4, 4), [torch.zeros(3, 3)] * 2, 2.0)
    white = compose(Choice("spatial", 3).rewrite(conv, dead))
    torch.testing.assert_close(white.weight, compose(Choice("spatial", 3).rewrite(conv)).weight)


@given(st.integers(0, 2**16))
def test_a_factor_that_reads_channels_alone_keeps_them(seed: int) -> None:
    torch.manual_seed(seed)
    conv = to_conv(nn.Conv2d(4, 4, 3, dtype=torch.float64))
    coordinates = whitening(conv)
    assert not coordinates.reads_channels(get_method("dw_pw")(conv, 2))
    assert coordinates.reads_channels(get_method("pw_dw")(conv, 2))


def test_an_input_of_nothing_but_rounding_leaves_them_too() -> None:
    conv = to_conv(nn.Conv2d(2, 4, 3, dtype=torch.float64))
    rounding = 1e-17 * torch.tensor([[[1.0, 9.0], [9.0, 1.0]]], dtype=torch.float64)
    dead = Whitening.of(rounding, [torch.zeros(3, 3)] * 2, 2.0)
    white = compose(Choice("spatial", 3).rewrite(conv, dead))
    torch.testing.assert_close(white.weight, compose(Choice("spatial", 3).rewrite(conv)).weight)
