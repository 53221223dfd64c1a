"""Choices and their combinations."""

from typing import Any

import pytest
import torch
from torch import nn

from decompose import Choice, DecomposeError
from decompose.algebra import leaves, weight_deviation
from decompose.layers.modules import DecomposedLayer, to_conv

CONV = to_conv(nn.Conv2d(8, 8, 3, dtype=torch.float64))
BOTH = Choice("spatial", 6, (Choice("pw_dw", 2), None))


def test_factors_are_rewritten_in_their_order() -> None:
    shapes = [tuple(leaf.weight.shape) for leaf in leaves(BOTH.rewrite(CONV))]
    assert shapes == [(6, 8, 1, 1), (6, 1, 3, 1)] * 2 + [(8, 6, 1, 3)]


def test_labels_name_methods_and_ranks() -> None:
    assert (BOTH.label, BOTH.rank_label) == ("spatial+pw_dw", "6+2,-")
    assert (Choice("dw_pw", 3).label, Choice("dw_pw", 3).rank_label) == ("dw_pw", "3")


def test_records_are_read_back() -> None:
    assert Choice.from_dict(BOTH.to_dict()) == BOTH
    assert Choice("dw_pw", 3).to_dict() == {"method": "dw_pw", "rank": 3}


def test_combinations_lose_no_less_than_their_outer_method() -> None:
    alone = weight_deviation(Choice("spatial", 6).rewrite(CONV), CONV).relative
    assert weight_deviation(BOTH.rewrite(CONV), CONV).relative >= alone


def test_needless_levels_are_left_out() -> None:
    choice = Choice("spatial", 6, (Choice("pw_dw", 1), Choice("pw_dw", 1)))
    layer = DecomposedLayer(nn.Conv2d(8, 8, 3), choice.rewrite(CONV), choice)
    assert isinstance(layer.body, nn.Sequential)
    assert [type(part) for part in layer.body] == [nn.Conv2d] * 4


def test_more_choices_than_factors() -> None:
    with pytest.raises(DecomposeError, match="spatial makes fewer factors"):
        Choice("spatial", 6, (None, None, Choice("pw_dw", 1))).rewrite(CONV)


def test_bad_records() -> None:
    for record, message in (
        ({"method": "spatial", "rank": 6, "then": {}}, "must be a list"),
        ({"method": "spatial", "rank": 6, "then": [3]}, "must be"),
        ({"method": "spatial"}, "must be"),
    ):
        with pytest.raises(DecomposeError, match=message):
            Choice.from_dict(record)


def test_choices_without_end_are_refused() -> None:
    record: Any = {"method": "tucker", "rank": 2}
    for _ in range(15):
        record = {"method": "tucker", "rank": 2, "then": [record]}
    assert Choice.from_dict(record).to_dict() == record
    with pytest.raises(DecomposeError, match="more than 16 methods lie one inside the other"):
        Choice.from_dict({"method": "tucker", "rank": 2, "then": [record]})
