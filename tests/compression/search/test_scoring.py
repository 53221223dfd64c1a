"""Candidates scored on inputs, and statistics kept for other budgets."""

import pytest
import torch
from torch import nn

import decompose
from decompose import DecomposeError
from decompose.data.synthetic import synthetic_inputs
from decompose.evaluation.comparison import compare_weights
from tests.support.strategies import Mixed

EXAMPLE = torch.zeros(1, 3, 32, 32)


def test_a_budget_can_be_planned_on_inputs_or_on_what_was_kept_of_them() -> None:
    model = Mixed().eval()
    inputs = synthetic_inputs(EXAMPLE, num=6)
    plan = decompose.plan(model, EXAMPLE, macs=0.5, calibrate=inputs)
    assert set(plan.notes) == set(plan.layers)
    assert all(note.unit == "MACs" and note.cost > 0 for note in plan.notes.values())
    statistics = decompose.measure(model, EXAMPLE, iter(inputs.split(2)))
    for share in (0.5, 0.7):
        again = decompose.plan(model, EXAMPLE, macs=share, calibrate=statistics)
        small = decompose.apply(again, model)
        costs = compare_weights(model, small, EXAMPLE).macs
        assert costs.after <= share * costs.before
    assert decompose.plan(model, EXAMPLE, macs=0.5, calibrate=statistics).layers == plan.layers
    with pytest.raises(DecomposeError, match="one method's rank needs no inputs"):
        decompose.plan(model, EXAMPLE, rank=2, calibrate=inputs)


def test_a_budget_is_planned_in_the_coordinates_that_repair_may_take() -> None:
    # The second layer's sixteen channels come from three, so most of its kernel is never used.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3)).eval()
    inputs = synthetic_inputs(EXAMPLE, num=6)
    statistics = decompose.measure(model, EXAMPLE, inputs, methods=["channel"])
    plan = decompose.plan(model, EXAMPLE, macs=0.5, methods=["channel"], calibrate=statistics)
    repaired = decompose.apply(plan, model, calibrate=inputs)
    held = synthetic_inputs(EXAMPLE, num=6, seed=7)
    truncated = decompose.compare(model, decompose.apply(plan, model), held).output_error
    left = decompose.compare(model, repaired, held).output_error
    assert left is not None
    assert truncated is not None
    assert left < 0.5 * truncated


def test_statistics_of_another_model_are_refused() -> None:
    statistics = decompose.measure(Mixed(), EXAMPLE, synthetic_inputs(EXAMPLE, num=2))
    other = nn.Sequential()
    other.add_module("stem", nn.Conv2d(3, 8, 5))
    with pytest.raises(DecomposeError, match="of another model"):
        decompose.plan(other, EXAMPLE, macs=0.5, calibrate=statistics)
