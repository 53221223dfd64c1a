"""Channel pruning as a choice: its record, and what it leaves of a layer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decompose import Choice, DecomposeError
from decompose.algebra import Conv
from decompose.methods.pruning import PRUNE, PrunedChannels

CHOICE = Choice(PRUNE, 4, pruned=PrunedChannels((0, 1, 2, 5), 6, ("conv1", "bn1")))


@given(st.sets(st.integers(0, 2000), min_size=1))
def test_channels_go_through_their_record(kept: set[int]) -> None:
    channels = PrunedChannels(tuple(sorted(kept)), 2001, ("conv1",))
    assert PrunedChannels.from_dict(channels.to_dict()) == channels


def test_a_choice_goes_through_its_record() -> None:
    record = CHOICE.to_dict()
    assert record == {
        "method": "prune",
        "rank": 4,
        "kept": "0-2,5",
        "of": 6,
        "writers": ["conv1", "bn1"],
    }
    assert Choice.from_dict(record) == CHOICE
    further = Choice(PRUNE, 4, (Choice("svd", 2),), CHOICE.pruned)
    assert Choice.from_dict(further.to_dict()) == further
    assert (further.label, further.rank_label) == ("prune+svd", "4+2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 5}, "4 channels are kept"),
        ({"kept": "5,0-2"}, "'0-2' does not rise"),
        ({"kept": "0-x"}, "no channel and no range"),
        ({"kept": "-3"}, "no channel and no range"),
        ({"kept": ""}, "no channel and no range"),
        ({"kept": "0-99999999"}, "more channels than a layer"),
        ({"kept": 3}, "must name channels"),
        ({"of": 5}, "more than 5"),
        ({"of": "6"}, "must be the number"),
        ({"writers": "conv1"}, "must be a list of names"),
        ({"method": "svd"}, "must be"),
    ],
)
def test_bad_records(change: dict, message: str) -> None:
    with pytest.raises(DecomposeError, match=message):
        Choice.from_dict({**CHOICE.to_dict(), **change})


def test_it_keeps_columns_of_a_kernel_once() -> None:
    conv = Conv(torch.randn(3, 6, 1, 1))
    smaller = CHOICE.rewrite(conv)
    assert isinstance(smaller, Conv)
    assert torch.equal(smaller.weight, conv.weight[:, [0, 1, 2, 5]])
    again = CHOICE.rewrite(smaller)
    assert isinstance(again, Conv)
    assert torch.equal(again.weight, smaller.weight)
    # What is made may be changed in place.
    assert again.weight is not smaller.weight


def test_layers_without_such_channels_are_refused() -> None:
    with pytest.raises(DecomposeError, match="5 input channels, not 6"):
        CHOICE.rewrite(Conv(torch.randn(3, 5, 1, 1)))
    with pytest.raises(DecomposeError, match="grouped"):
        CHOICE.rewrite(Conv(torch.randn(6, 3, 1, 1), groups=2))
