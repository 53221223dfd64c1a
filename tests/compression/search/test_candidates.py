"""Candidates of one layer."""

import pytest
import torch
from torch import nn

from decompose import algebra
from decompose.algebra import weight_deviation
from decompose.compression.search.candidates import COMBINATIONS, find_candidates, loss, undominated
from decompose.layers.modules import to_conv
from decompose.methods.combinations import parse_combination

CONV = to_conv(nn.Conv2d(16, 24, 3, dtype=torch.float64))


ALL = [parse_combination(name) for name in COMBINATIONS]


def test_none_is_beaten_by_another_of_the_same_methods() -> None:
    found = find_candidates(CONV, ALL, algebra.params)
    assert found[0].choice is None
    assert (found[0].cost, found[0].error) == (algebra.params(CONV), 0)
    for label in {candidate.label for candidate in found}:
        family = [candidate for candidate in found if candidate.label == label]
        assert undominated(family) == family


def test_undominated_options_cost_less_where_they_do_worse() -> None:
    found = undominated(find_candidates(CONV, ALL, algebra.params))
    assert len(found) > 10
    costs, errors = [o.cost for o in found], [o.error for o in found]
    assert costs == sorted(costs, reverse=True)
    assert errors == sorted(errors)
    assert len(set(costs)) == len(costs)


def test_costs_and_errors_are_those_of_the_choice() -> None:
    for candidate in find_candidates(CONV, ALL, algebra.params)[1:]:
        assert candidate.choice is not None
        expression = candidate.choice.rewrite(CONV)
        assert candidate.cost == algebra.params(expression)
        real = weight_deviation(expression, CONV).relative
        # Tucker iterates on from the draft that was scored.
        assert real == pytest.approx(candidate.error, rel=1e-6, abs=1e-12) or (
            "tucker" in candidate.label and 0.8 * candidate.error < real < 1.2 * candidate.error
        )


def test_an_error_of_ones_own_is_asked_of_every_option() -> None:
    found = find_candidates(CONV, ALL, algebra.params, lambda e: 1 / algebra.params(e))
    assert all(o.error == pytest.approx(1 / o.cost) for o in found[1:])


def test_losses_add_up_to_what_is_lost_in_a_row() -> None:
    assert loss(0.5) + loss(0.5) == pytest.approx(loss(0.75))
    assert loss(1.0) < float("inf")


def test_an_error_that_is_no_number_never_passes_for_a_small_one() -> None:
    assert loss(float("nan")) == loss(float("inf")) == loss(1.0) > 10
