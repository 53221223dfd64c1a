"""An expression's output is that of torch's modules."""

import pytest
import torch
from hypothesis import given

from decompose.algebra import Chain, Conv, Sum, run
from decompose.algebra.execution import swap_transposed_layout
from decompose.layers.modules import to_conv
from tests.support.strategies import Case, conv_cases


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(conv_cases())
def test_a_convolution_runs_as_its_module(case: Case) -> None:
    module, x = case
    torch.testing.assert_close(run(to_conv(module), x), module(x), rtol=1e-12, atol=1e-12)


def test_a_chain_composes_and_a_sum_adds() -> None:
    a, b = (Conv(torch.randn(3, 3, 1, dtype=torch.float64)) for _ in range(2))
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(run(Chain(a, b), x), run(b, run(a, x)))
    torch.testing.assert_close(run(Sum(a, b), x), run(a, x) + run(b, x))


def test_the_layout_of_transposed_kernels_swaps_back() -> None:
    weight = torch.randn(6, 2, 3, 3)
    swapped = swap_transposed_layout(weight, 3)
    assert swapped.shape == (6, 2, 3, 3)
    assert torch.equal(swap_transposed_layout(swapped, 3), weight)
