"""Candidates that pool before a layer."""

import pytest
import torch
from torch import nn

import decompose
from decompose import Choice, Plan
from decompose.algebra import params
from decompose.compression.search.error_prediction import OutputError
from decompose.compression.search.pooling_candidates import find_pooling_candidates
from decompose.compression.statistics import gather
from decompose.layers.costs import macs_counters
from decompose.layers.survey import survey
from decompose.models.conversion import plan_of
from decompose.models.plans import KEPT
from tests.support.averaged_head import EXAMPLE, averaged_head
from tests.support.figures import counted, error_of

IMAGES = torch.rand(40, 4, 12, 12, generator=torch.Generator().manual_seed(0))


def test_the_cost_is_that_of_one_position() -> None:
    model = averaged_head()
    known = survey(model, EXAMPLE)
    statistics = gather(model, IMAGES, known.chosen(known.convs))
    costs = macs_counters(known.shapes, known.shapes)
    error = {n: OutputError(known.convs[n], statistics.layers[n]) for n in known.convs}
    (found,) = find_pooling_candidates(known.convs["3"], costs["3"], error["3"])
    assert found.cost == 120
    assert 0 < found.error < 1
    small = decompose.apply(Plan({"3": Choice("pool", 1)}), model)
    assert counted(small, EXAMPLE) == counted(model, EXAMPLE) - 120 * 143
    # A kernel of nine taps, or a cost that pooling leaves as it is.
    assert not find_pooling_candidates(known.convs["0"], costs["0"], error["0"])
    assert not find_pooling_candidates(known.convs["3"], params, error["3"])


@pytest.mark.parametrize("images", [IMAGES, None])
def test_without_an_activation_a_budget_takes_it_at_no_loss(images: torch.Tensor | None) -> None:
    model = averaged_head()
    plan = decompose.plan(model, EXAMPLE, macs=0.8, calibrate=images)
    assert plan.layers["3"] == Choice("pool", 1)
    small = decompose.apply(plan, model, calibrate=images)
    assert counted(small, EXAMPLE) <= 0.8 * counted(model, EXAMPLE)
    assert error_of(model, small, IMAGES) < 1e-9


def test_the_correction_makes_the_error_that_of_the_output() -> None:
    model = averaged_head(nn.ReLU())
    statistics = decompose.measure(model, EXAMPLE, IMAGES)
    assert statistics.corrections["3"]["pool"] > 0
    plan = decompose.plan(model, EXAMPLE, macs=0.8, methods=["pool"], calibrate=statistics)
    assert plan == decompose.plan(model, EXAMPLE, macs=0.8, methods=["pool"], calibrate=IMAGES)
    measured = error_of(model, decompose.apply(plan, model), IMAGES)
    assert plan.notes["3"].error == pytest.approx(measured, rel=0.5)


def test_it_saves_no_parameters() -> None:
    plan = decompose.plan(averaged_head(), EXAMPLE, params=0.8, calibrate=IMAGES)
    assert all(choice.method != "pool" for choice in plan.layers.values())


def test_a_pooled_layer_stays_one_when_compressed_again() -> None:
    model = averaged_head()
    small = decompose.apply(Plan({"3": Choice("pool", 1)}), model)
    plan = decompose.plan(small, EXAMPLE, macs=0.6, calibrate=IMAGES)
    again = decompose.apply(plan, small, calibrate=IMAGES)
    assert plan_of(again).layers["3"] == Choice("pool", 1)
    assert plan.dense["3"] == KEPT
    assert counted(again, EXAMPLE) <= 0.6 * counted(small, EXAMPLE)


def test_a_latency_budget_takes_it() -> None:
    wide = nn.Sequential(nn.Conv2d(4, 64, 1), nn.Conv2d(64, 256, 1), nn.AdaptiveAvgPool2d(1)).eval()
    images = torch.rand(1, 4, 64, 64)
    plan = decompose.plan(wide, images, latency=0.9, methods=["pool"], threads=1)
    assert plan.layers == {"1": Choice("pool", 1)}
