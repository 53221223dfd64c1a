"""Candidates of one layer."""

import pytest
import torch
from torch import nn

from decompose import algebra
from decompose.algebra import weight_deviation
from decompose.compression.covariances import AxisCovariances
from decompose.compression.search.candidates import COMBINATIONS, find_candidates, loss, undominated
from decompose.compression.search.error_prediction import OutputError
from decompose.compression.search.quick_truncations import QuickTruncations
from decompose.compression.statistics import gather
from decompose.layers.discovery import find_decomposable
from decompose.layers.modules import to_conv
from decompose.methods import get_method
from decompose.methods.combinations import parse_combination

CONV = to_conv(nn.Conv2d(16, 24, 3, dtype=torch.float64))


ALL = [parse_combination(name) for name in COMBINATIONS]


def test_none_is_beaten_by_another_of_the_same_methods() -> None:
    found = find_candidates(QuickTruncations(CONV), ALL, algebra.params)
    assert found[0].choice is None
    assert (found[0].cost, found[0].error) == (algebra.params(CONV), 0)
    for label in {candidate.label for candidate in found}:
        family = [candidate for candidate in found if candidate.label == label]
        assert undominated(family) == family


def test_undominated_options_cost_less_where_they_do_worse() -> None:
    found = undominated(find_candidates(QuickTruncations(CONV), ALL, algebra.params))
    assert len(found) > 10
    costs, errors = [o.cost for o in found], [o.error for o in found]
    assert costs == sorted(costs, reverse=True)
    assert errors == sorted(errors)
    assert len(set(costs)) == len(costs)


def test_costs_and_errors_are_those_of_the_choice() -> None:
    for candidate in find_candidates(QuickTruncations(CONV), ALL, algebra.params)[1:]:
        assert candidate.choice is not None
        expression = candidate.choice.rewrite(CONV)
        assert candidate.cost == algebra.params(expression)
        real = weight_deviation(expression, CONV).relative
        # Tucker iterates on from the draft that was scored.
        assert real == pytest.approx(candidate.error, rel=1e-6, abs=1e-12) or (
            "tucker" in candidate.label and 0.8 * candidate.error < real < 1.2 * candidate.error
        )


def test_a_predicted_error_is_that_of_the_choice_in_its_coordinates() -> None:
    first = nn.Conv2d(16, 24, 3)
    model = nn.Sequential(first, nn.ReLU(), nn.Conv2d(24, 8, 3))
    conv = to_conv(first)
    statistics = gather(model, torch.randn(8, 16, 12, 12), find_decomposable(model)).layers["0"]
    whitening = AxisCovariances.of_patches(conv, statistics).whitening()
    error = OutputError(conv, statistics, whitening)
    truncations = QuickTruncations(conv, whitening)
    found = find_candidates(truncations, ALL, algebra.params, error)
    assert len(found) > 50
    for candidate in found[1:]:
        assert candidate.choice is not None
        made = truncations.expression(candidate.choice)
        assert candidate.error == pytest.approx(error(made), rel=1e-2, abs=1e-6)


def test_losses_add_up_to_what_is_lost_in_a_row() -> None:
    assert loss(0.5) + loss(0.5) == pytest.approx(loss(0.75))
    assert loss(1.0) < float("inf")


def test_an_error_that_is_no_number_never_passes_for_a_small_one() -> None:
    assert loss(float("nan")) == loss(float("inf")) == loss(1.0) > 10


@pytest.mark.parametrize("multiple", [8, 16])
def test_channels_come_in_multiples(multiple: int) -> None:
    found = find_candidates(QuickTruncations(CONV), ALL, algebra.params, multiple=multiple)
    choices = [candidate.choice for candidate in found if candidate.choice is not None]
    assert any(choice.method == "pw_dw" and choice.rank % 8 for choice in choices)
    wide = [choice for choice in choices if get_method(choice.method).rank_is_width]
    assert wide
    assert all(choice.rank % multiple == 0 for choice in wide)
