"""Branches and one wide chain compute the same."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decompose.algebra import Chain, Conv, Sum, macs, merge_branches, params, run, split_branches
from decompose.layers.modules import to_conv
from decompose.methods import METHODS
from tests.support.strategies import Case, conv_cases, spatial


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(conv_cases().filter(spatial), st.sampled_from(["pw_dw", "dw_pw"]), st.data())
def test_merging_and_splitting_change_nothing(case: Case, name: str, data: st.DataObject) -> None:
    module, x = case
    conv = to_conv(module)
    rank = data.draw(st.integers(1, METHODS[name].max_rank(conv)))
    branches = METHODS[name](conv, rank)
    assert isinstance(branches, Sum)
    merged = merge_branches(branches)
    assert isinstance(merged, Chain)
    expected = run(branches, x)
    torch.testing.assert_close(run(merged, x), expected, rtol=1e-10, atol=1e-10)
    again = split_branches(merged, rank)
    assert len(again.parts) == rank
    torch.testing.assert_close(run(again, x), expected, rtol=1e-10, atol=1e-10)
    size = x.shape[2:]
    assert macs(merged, size) == macs(branches, size) == macs(again, size)
    assert params(merged) == params(branches) == params(again)


def test_what_cannot_be_merged_or_split_is_refused() -> None:
    a, b = Conv(torch.randn(4, 3, 1)), Conv(torch.randn(2, 4, 1))
    with pytest.raises(ValueError, match="only chains"):
        merge_branches(Sum(a, a))
    with pytest.raises(ValueError, match="differ in shape"):
        merge_branches(
            Sum(Chain(a, b), Chain(Conv(torch.randn(6, 3, 1)), Conv(torch.randn(2, 6, 1))))
        )
    with pytest.raises(ValueError, match="do not fall into 3 terms"):
        split_branches(Chain(a, b), 3)


def test_biases_are_kept() -> None:
    a = Conv(torch.randn(4, 3, 1), torch.randn(4))
    b = Conv(torch.randn(2, 4, 1), torch.randn(2))
    x = torch.randn(1, 3, 5)
    chain = Chain(a, b)
    split = split_branches(chain, 2)
    torch.testing.assert_close(run(split, x), run(chain, x))
    torch.testing.assert_close(run(merge_branches(split), x), run(chain, x))
