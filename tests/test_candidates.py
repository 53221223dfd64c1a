"""Candidates of one layer."""

import pytest
import torch
from torch import nn

from decompose import algebra
from decompose.algebra import weight_deviation
from decompose.candidates import RECIPES, candidates, loss
from decompose.modules import to_conv
from decompose.wishes import parse_recipe

CONV = to_conv(nn.Conv2d(16, 24, 3, dtype=torch.float64))


def test_none_is_beaten_by_another() -> None:
    found = candidates(CONV, [parse_recipe(name) for name in RECIPES], algebra.params)
    assert found[0].choice is None
    assert (found[0].cost, found[0].loss) == (algebra.params(CONV), 0)
    assert len(found) > 10
    costs, losses = [c.cost for c in found], [c.loss for c in found]
    assert costs == sorted(costs, reverse=True)
    assert losses == sorted(losses)
    assert len(set(costs)) == len(costs)


def test_costs_and_losses_are_those_of_the_choice() -> None:
    for candidate in candidates(CONV, [parse_recipe(name) for name in RECIPES], algebra.params)[1:]:
        assert candidate.choice is not None
        expression = candidate.choice.rewrite(CONV)
        assert candidate.cost == algebra.params(expression)
        real = loss(weight_deviation(expression, CONV).relative)
        # Tucker iterates on from the draft that was weighed.
        assert real == pytest.approx(candidate.loss, rel=1e-6) or (
            "tucker" in candidate.choice.label and 0.8 * candidate.loss < real < candidate.loss
        )


def test_losses_add_up_to_what_is_lost_in_a_row() -> None:
    assert loss(0.5) + loss(0.5) == pytest.approx(loss(0.75))
    assert loss(1.0) < float("inf")
