"""Fewer channels: the same outputs, and no others computed."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from decompose.algebra import (
    Conv,
    behind_selection,
    keep_inputs,
    keep_outputs,
    merged,
    params,
    run,
)
from decompose.layers.modules import to_conv
from decompose.methods import METHODS, get_method
from tests.support.strategies import Case, conv_cases

KEPT = torch.tensor([0, 2])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(conv_cases(groups=False), st.sampled_from(sorted(METHODS)))
def test_the_kept_outputs_are_as_they_were(case: Case, name: str) -> None:
    module, x = case
    conv, method = to_conv(module), get_method(name)
    assume(conv.out_channels > 2 and method.why_not(conv) is None)
    expression = method(conv, 1)
    smaller = keep_outputs(expression, KEPT)
    torch.testing.assert_close(run(smaller, x), run(expression, x)[:, KEPT])
    if conv.out_channels > 3:
        assert params(smaller) < params(expression)


def test_unread_inputs_might_as_well_be_zero() -> None:
    conv = Conv(torch.randn(4, 3, 3, 3), torch.randn(4))
    x = torch.randn(2, 3, 5, 5)
    masked = x * torch.tensor([1.0, 0, 1]).view(1, -1, 1, 1)
    torch.testing.assert_close(run(keep_inputs(conv, KEPT), x[:, KEPT]), run(conv, masked))


def test_groups_are_refused() -> None:
    grouped = Conv(torch.randn(4, 3, 3, 3), groups=2)
    with pytest.raises(ValueError, match="grouped"):
        keep_outputs(grouped, KEPT)
    with pytest.raises(ValueError, match="grouped"):
        keep_inputs(grouped, KEPT)
    conv = Conv(torch.randn(4, 6, 3, 3))
    with pytest.raises(ValueError, match="grouped"):
        keep_outputs(merged(get_method("pw_dw")(conv, 2)), KEPT)


def test_behind_a_selection_it_reads_some_of_all_channels() -> None:
    conv, x = Conv(torch.randn(5, 4, 3, 3)), torch.randn(2, 4, 8, 8)
    selecting = behind_selection(keep_inputs(conv, KEPT), KEPT, 4)
    torch.testing.assert_close(run(selecting, x), run(keep_inputs(conv, KEPT), x[:, KEPT]))
    assert params(selecting) == params(keep_inputs(conv, KEPT)) + 2 * 4
