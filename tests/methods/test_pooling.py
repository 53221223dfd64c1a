"""Pooling before a layer as a choice: its record, and what becomes of the layer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decompose import Choice, DecomposeError
from decompose.algebra import Conv, Geometry, run
from decompose.layers.modules import to_conv
from decompose.methods.pooling import POOL, can_pool, pooled, spread
from tests.support.strategies import Case, conv_cases


@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 5), st.booleans())
def test_it_gives_the_mean_of_what_the_layer_gives(
    num_axes: int, groups: int, size: int, has_bias: bool
) -> None:
    generator = torch.Generator().manual_seed(size)
    weight = torch.randn(4, 3, *[1] * num_axes, generator=generator, dtype=torch.float64)
    bias = torch.arange(4.0, dtype=torch.float64) if has_bias else None
    conv = Conv(weight, bias, groups=groups)
    shape = 2, 3 * groups, *range(size, size + num_axes)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    mean = run(conv, x).mean(tuple(range(2, 2 + num_axes)), keepdim=True)
    torch.testing.assert_close(run(pooled(conv), x), mean)
    assert spread(pooled(conv)).geometry == conv.geometry


@given(conv_cases())
def test_only_layers_that_treat_each_position_alike_are_taken(case: Case) -> None:
    conv = to_conv(case[0])
    if can_pool(conv):
        still = Geometry.pointwise(conv.geometry.num_axes)
        assert (conv.num_taps, conv.geometry.stride) == (1, still.stride)
        assert conv.geometry.padding == still.padding
    else:
        with pytest.raises(DecomposeError, match="one tap"):
            Choice(POOL, 1).rewrite(conv)


def test_a_choice_goes_through_its_record() -> None:
    choice = Choice(POOL, 1)
    assert choice.to_dict() == {"method": "pool", "rank": 1}
    assert Choice.from_dict(choice.to_dict()) == choice


@pytest.mark.parametrize(
    "record",
    [
        {"method": "pool", "rank": 2},
        {"method": "pool", "rank": 1, "then": [None]},
        {"method": "svd", "rank": 2, "then": [{"method": "pool", "rank": 1}, None]},
    ],
)
def test_it_stands_alone(record: object) -> None:
    with pytest.raises(DecomposeError, match="stands alone"):
        Choice.from_dict(record)
