"""Patches: a convolution is a matrix product of its kernel with them."""

from math import prod

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from decompose.algebra import (
    compose,
    on_patches,
    outputs_at,
    patches,
    patches_at,
    run,
    strided_outputs,
    subsampling_for,
)
from decompose.layers.modules import to_conv
from decompose.methods import get_method
from tests.support.strategies import Case, conv_cases, spatial


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(conv_cases(groups=False), st.integers(1, 3))
def test_the_kernel_times_the_patches_is_the_output(case: Case, step: int) -> None:
    module, x = case
    conv = to_conv(module)
    if conv.geometry.transposed:
        with pytest.raises(ValueError, match="no patches"):
            patches(conv, x)
        return
    product = patches(conv, x, step).flatten(1) @ conv.weight.flatten(1).T
    if conv.bias is not None:
        product = product + conv.bias
    torch.testing.assert_close(
        product, strided_outputs(conv, module(x), step), rtol=1e-10, atol=1e-10
    )


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(conv_cases(), st.sampled_from(["pw_dw", "dw_pw", "channel"]))
def test_an_expression_acts_on_patches_as_its_kernel(case: Case, name: str) -> None:
    assume(spatial(case))
    conv = to_conv(case[0])
    expression = get_method(name)(conv, 1)
    seen = torch.randn(5, conv.in_channels, *conv.kernel_size, dtype=torch.float64)
    given = run(on_patches(expression), seen)
    torch.testing.assert_close(given, run(on_patches(compose(expression)), seen))


def test_the_step_leaves_few_positions() -> None:
    assert subsampling_for((1, 3, 10, 10), 2, 100) == (1, 1)
    assert subsampling_for((1, 3, 10, 10), 2, 99) == (1, 2)
    assert subsampling_for((1000, 3), 0, 1) == (1, 1)


@given(st.integers(1, 2000), st.lists(st.integers(1, 40), min_size=1, max_size=3))
def test_strides_leave_about_as_many_positions_as_are_wanted(batch: int, size: list[int]) -> None:
    most = 512
    every, step = subsampling_for((batch, 3, *size), len(size), most)
    left = len(range(0, batch, every)) * prod(len(range(0, pixels, step)) for pixels in size)
    assert left < 2 * most + 1
    if batch * prod(size) <= most:
        assert (every, step) == (1, 1)
    if batch == 1:
        assert every == 1


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(conv_cases(groups=False), st.integers(0, 1000))
def test_chosen_positions_are_those_among_all(case: Case, seed: int) -> None:
    module, x = case
    conv = to_conv(module)
    assume(not conv.geometry.transposed)
    y = module(x)
    count = y[0, 0].numel()
    chosen = torch.randint(count, (len(x), 3), generator=torch.Generator().manual_seed(seed))
    among = (chosen + count * torch.arange(len(x)).unsqueeze(1)).flatten()
    assert torch.equal(patches_at(conv, x, chosen), patches(conv, x)[among])
    assert torch.equal(outputs_at(conv, y, chosen), strided_outputs(conv, y)[among])
