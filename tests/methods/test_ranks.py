"""The papers' rank rules."""

import pytest
from torch import nn

from decompose import Choice, DecomposeError
from decompose.layers.modules import to_conv
from decompose.methods import get_method
from decompose.methods.combinations import combine, parse_combination
from decompose.methods.ranks import rank_for_ratio

CONV = to_conv(nn.Conv2d(64, 128, 3))


@pytest.mark.parametrize("ratio", [1.5, 2.0, 3.7])
def test_ratios_give_the_papers_ranks(ratio: float) -> None:
    weights = 64 * 128 * 9
    spatial = int(weights / (ratio * (3 * 64 + 3 * 128)))
    channel = int(weights / (ratio * (9 * 64 + 128)))
    assert rank_for_ratio(get_method("spatial"), CONV, ratio) == spatial
    assert rank_for_ratio(get_method("channel"), CONV, ratio) == channel


def test_a_ratio_has_a_least_rank_and_a_bound() -> None:
    assert rank_for_ratio(get_method("spatial"), CONV, 1e9) == 1
    assert rank_for_ratio(get_method("spatial"), CONV, 1e-9) == 192
    with pytest.raises(DecomposeError, match="must be positive"):
        rank_for_ratio(get_method("spatial"), CONV, 0)


def test_a_combination_goes_on_where_it_makes_something_smaller() -> None:
    combination = parse_combination("spatial+pw_dw")
    two = Choice("pw_dw", 2)
    assert combine(combination, CONV, 64, 2) == Choice("spatial", 64, (two, two))
    # With three taps, three terms are more than there was.
    assert combine(combination, CONV, 64, 3) == Choice("spatial", 64)
    tucker = combine(parse_combination("tucker+dw_pw"), CONV, 64, 3)
    assert tucker.then == (None, Choice("dw_pw", 3), None)


def test_combinations_name_methods() -> None:
    assert [method.name for method in parse_combination("tucker+spatial+dw_pw")] == [
        "tucker", "spatial", "dw_pw",
    ]  # fmt: skip
    with pytest.raises(DecomposeError, match="no method is called 'sd'"):
        parse_combination("sd+pw_dw")
