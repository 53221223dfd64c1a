"""Counted costs are executed costs."""

import pytest
import torch
from hypothesis import given
from torch.utils.flop_counter import FlopCounterMode

from decompose.algebra import Chain, Conv, Geometry, Sum, macs, output_size, params, run
from decompose.layers.modules import to_conv
from tests.support.strategies import Case, conv_cases


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(conv_cases())
def test_macs_and_sizes_are_those_that_torch_counts(case: Case) -> None:
    module, x = case
    conv = to_conv(module)
    with FlopCounterMode(display=False) as counter:
        y = module(x)
    assert output_size(conv, x.shape[2:]) == tuple(y.shape[2:])
    assert 2 * len(x) * macs(conv, x.shape[2:]) == counter.get_total_flops()
    assert params(conv) == sum(parameter.numel() for parameter in module.parameters())


def test_chains_pass_their_size_on_and_sums_add() -> None:
    halving = Conv(torch.randn(4, 3, 3), torch.zeros(4), Geometry((2,), ((1, 1),), (1,)))
    pointwise = Conv(torch.randn(5, 4, 1))
    chain = Chain(halving, pointwise)
    assert output_size(chain, [8]) == (4,)
    assert macs(chain, [8]) == 4 * 36 + 4 * 20
    assert macs(Sum(chain, chain), [8]) == 2 * macs(chain, [8])
    assert params(Sum(chain, chain)) == 2 * (36 + 4 + 20)
    with FlopCounterMode(display=False) as counter:
        run(chain, torch.randn(1, 3, 8))
    assert 2 * macs(chain, [8]) == counter.get_total_flops()


def test_sizes_that_cannot_be_are_refused() -> None:
    wide = Conv(torch.randn(1, 1, 5))
    with pytest.raises(ValueError, match="does not fit"):
        output_size(wide, [4])
    with pytest.raises(ValueError, match="different sizes"):
        output_size(Sum(wide, Conv(torch.randn(1, 1, 1))), [8])
