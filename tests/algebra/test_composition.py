"""An expression multiplied back into one convolution computes the same."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decompose.algebra import Chain, Conv, Geometry, Sum, compose, run, with_groups
from decompose.layers.modules import to_conv
from tests.support.strategies import Case, conv_cases

F64 = torch.float64


def same(expression: Chain | Sum, x: Tensor) -> None:
    torch.testing.assert_close(
        run(compose(expression), x), run(expression, x), rtol=1e-10, atol=1e-10
    )


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(conv_cases(), st.integers(1, 3), st.integers(1, 3))
def test_pointwise_kernels_before_and_after_a_convolution(
    case: Case, groups_before: int, groups_after: int
) -> None:
    module, x = case
    conv = to_conv(module)
    taps = (1,) * conv.geometry.num_axes
    before = Conv(
        torch.randn(conv.in_channels, 2, *taps, dtype=F64),
        groups=groups_before if conv.in_channels % groups_before == 0 else 1,
    )
    out = 2 * groups_after if conv.out_channels % groups_after == 0 else 2
    groups_after = groups_after if conv.out_channels % groups_after == 0 else 1
    after = Conv(
        torch.randn(out, conv.out_channels // groups_after, *taps, dtype=F64),
        torch.randn(out, dtype=F64),
        groups=groups_after,
    )
    same(Chain(conv, after), x)
    x = torch.randn(2, before.in_channels, *x.shape[2:], dtype=F64)
    same(Chain(before, conv, after), x)
    same(Sum(Chain(before, conv), Chain(before, conv)), x)


def test_kernels_along_different_axes() -> None:
    tall = Conv(
        torch.randn(4, 3, 3, 1, dtype=F64), None, Geometry((2, 1), ((1, 1), (0, 0)), (1, 1))
    )
    wide = Conv(
        torch.randn(5, 4, 1, 3, dtype=F64),
        torch.randn(5, dtype=F64),
        Geometry((1, 1), ((0, 0), (2, 2)), (1, 2)),
    )
    same(Chain(tall, wide), torch.randn(2, 3, 8, 9, dtype=F64))
    assert compose(Chain(tall, wide)).kernel_size == (3, 3)


@given(st.sampled_from([1, 2, 3]))
def test_fewer_groups_write_the_zeros_out(groups: int) -> None:
    conv = Conv(torch.randn(12, 2, 3, dtype=F64), None, Geometry((1,), ((1, 1),), (1,)), groups=6)
    x = torch.randn(2, 12, 7, dtype=F64)
    wider = with_groups(conv, groups)
    assert wider.groups == groups
    torch.testing.assert_close(run(wider, x), run(conv, x))


def test_biases_pass_through_pointwise_kernels_only() -> None:
    first = Conv(torch.randn(4, 3, 1, dtype=F64), torch.randn(4, dtype=F64))
    second = Conv(torch.randn(2, 4, 1, dtype=F64), torch.randn(2, dtype=F64))
    same(Chain(first, second), torch.randn(2, 3, 5, dtype=F64))
    spatial = Conv(torch.randn(2, 4, 3, dtype=F64), None, Geometry((1,), ((1, 1),), (1,)))
    with pytest.raises(ValueError, match="border"):
        compose(Chain(first, spatial))


def test_what_is_no_single_convolution_is_refused() -> None:
    spatial = Conv(torch.randn(3, 3, 3), None, Geometry((1,), ((1, 1),), (1,)))
    strided = Conv(torch.randn(3, 3, 3), None, Geometry((2,), ((1, 1),), (1,)))
    with pytest.raises(ValueError, match="same axis"):
        compose(Chain(spatial, spatial))
    with pytest.raises(ValueError, match="different ways"):
        compose(Sum(spatial, strided))
    with pytest.raises(ValueError, match="passes 3 channels on to 4"):
        compose(Chain(spatial, Conv(torch.randn(3, 4, 1))))
