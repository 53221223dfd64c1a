"""The papers' rank rules."""

import pytest
from torch import nn

from decompose import Choice, DecomposeError
from decompose.layers.modules import to_conv
from decompose.methods import get_method
from decompose.methods.combinations import combine, parse_combination
from decompose.methods.ranks import rank_for_ratio, rank_rule, rank_step

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


@pytest.mark.parametrize("name", ["spatial", "channel", "tucker", "cp"])
def test_a_ratio_in_multiples_keeps_no_more_weights(name: str) -> None:
    combination = parse_combination(name)
    exact = rank_for_ratio(combination[0], CONV, 3.0)
    rule = rank_rule(combination, {}, lambda _: None, None, 3.0, multiple=8)
    choice = rule("layer", CONV)
    assert isinstance(choice, Choice)
    assert choice.rank == exact // 8 * 8


def test_an_energy_in_multiples_is_held_at_least() -> None:
    spatial = get_method("spatial")
    rule = rank_rule((spatial,), {}, lambda _: None, 0.6, None, multiple=32)
    choice = rule("layer", CONV)
    assert isinstance(choice, Choice)
    assert choice.rank % 32 == 0
    assert 0 <= choice.rank - spatial.rank_for_energy(CONV, 0.6) < 32


def test_groups_count_together_and_terms_not_at_all() -> None:
    grouped = to_conv(nn.Conv2d(64, 64, 3, groups=4))
    assert rank_step(get_method("spatial"), grouped, 8) == 2
    assert rank_step(get_method("pw_dw"), grouped, 8) == 1


def test_layers_without_such_a_rank_stay_dense_and_ranks_are_multiples() -> None:
    spatial = get_method("spatial")
    rule = rank_rule((spatial,), {}, lambda _: None, None, 3.0, multiple=256)
    assert rule("layer", CONV) == "no rank that is asked for has a multiple of 256 channels"
    with pytest.raises(DecomposeError, match="rank 12 is no multiple of 8"):
        rank_rule((spatial,), {"*": 12}, lambda _: 12, None, None, multiple=8)
