"""Candidates that leave out hidden channels."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import decompose
from decompose import algebra
from decompose.compression.search.pruning_candidates import find_pruning_candidates
from decompose.compression.statistics import gather
from decompose.evaluation.comparison import compare
from decompose.layers.costs import macs_counters
from decompose.layers.dependencies import find_hidden_channels
from decompose.layers.survey import survey
from decompose.models.plans import NARROWED, Plan
from tests.support.figures import counted, error_of
from tests.support.inverted_bottleneck import EXAMPLE, HIDDEN, InvertedBottleneck

IMAGES = torch.randn(40, 4, 12, 12, generator=torch.Generator().manual_seed(0))


class OwnForward(nn.Conv2d):
    """A convolution that no other module can replace, as timm's ``Conv2dSame``."""

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(batch, I, *input_size)`` to ``(batch, O, *output_size)``."""
        return super().forward(input)


@pytest.mark.parametrize("has_own_forward", [False, True])
def test_the_cost_is_what_the_layers_around_take(has_own_forward: bool) -> None:
    model = InvertedBottleneck()
    if has_own_forward:
        model.depthwise.__class__ = OwnForward
    known = survey(model, EXAMPLE)
    statistics = gather(model, IMAGES, known.chosen(known.convs))
    hidden = find_hidden_channels(known)["project"]
    costs = macs_counters(known.shapes, known.shapes)
    layer = statistics.layers["project"]
    found = find_pruning_candidates(hidden, known, layer, costs)
    assert [candidate.choice.rank for candidate in found if candidate.choice] == list(
        range(HIDDEN - 1, 4, -1)
    )
    covered = {"expand"} if has_own_forward else {"expand", "depthwise"}
    whole = counted(model, EXAMPLE)
    dense = sum(costs[name](known.convs[name]) for name in ("project", *covered))
    errors = []
    for candidate in found[::6]:
        assert candidate.choice is not None
        assert set(candidate.covers) == covered
        small = decompose.apply(Plan({"project": candidate.choice}), model)
        assert counted(small, EXAMPLE) == whole - dense + candidate.cost
        errors.append(candidate.error)
    assert errors == sorted(errors)


def test_without_gradients_errors_are_of_the_layer_itself() -> None:
    model = InvertedBottleneck(has_twins=False)
    known = survey(model, EXAMPLE)
    layer = gather(model, IMAGES, known.chosen(known.convs)).layers["project"]
    hidden = find_hidden_channels(known)["project"]
    costs = macs_counters(known.shapes, known.shapes)
    blind = replace(layer, metric=torch.zeros_like(layer.metric))
    found = find_pruning_candidates(hidden, known, blind, costs)
    assert 0 < found[0].error < found[-1].error < 1


def test_a_budget_leaves_out_twins() -> None:
    model = InvertedBottleneck()
    before = model(IMAGES)
    plan = decompose.plan(model, EXAMPLE, macs=0.75, calibrate=IMAGES)
    choice = plan.layers["project"]
    assert (choice.method, choice.pruned.writers[:2]) == ("prune", ("depthwise", "expand"))  # type: ignore[union-attr]
    assert plan.dense["expand"] == NARROWED
    small = decompose.apply(plan, model, calibrate=IMAGES)
    left = str(plan.layers["project"].rank)
    methods = {
        layer.name: (layer.method, layer.rank) for layer in compare(model, small, EXAMPLE).layers
    }
    assert methods["expand"] == methods["depthwise"] == ("prune", left)
    assert methods["stem"] == ("dense", "")
    assert counted(small, EXAMPLE) <= 0.75 * counted(model, EXAMPLE)
    assert error_of(model, small, IMAGES) < 1e-6
    assert torch.equal(model(IMAGES), before)
    # Without inputs to repair on nothing tells which channels are twins.
    data_free = decompose.plan(model, EXAMPLE, macs=0.75)
    assert all(choice.method != "prune" for choice in data_free.layers.values())


def test_statistics_give_the_same_plan() -> None:
    model = InvertedBottleneck()
    statistics = decompose.measure(model, EXAMPLE, IMAGES)
    assert "prune" in statistics.corrections["project"]
    plan = decompose.plan(model, EXAMPLE, macs=0.75, calibrate=IMAGES)
    assert decompose.plan(model, EXAMPLE, macs=0.75, calibrate=statistics) == plan


def test_a_multiple_of_channels_stays() -> None:
    model = InvertedBottleneck()
    plan = decompose.plan(
        model, EXAMPLE, params=0.75, methods=["prune"], calibrate=IMAGES, multiple=4
    )
    assert plan.layers["project"].rank % 4 == 0
    small = decompose.apply(plan, model, calibrate=IMAGES)
    assert sum(p.numel() for p in small.parameters()) <= 0.75 * sum(
        p.numel() for p in model.parameters()
    )


def test_methods_without_pruning_keep_all_channels() -> None:
    model = InvertedBottleneck()
    plan = decompose.plan(model, EXAMPLE, macs=0.75, methods=["svd", "spatial"], calibrate=IMAGES)
    assert {choice.method for choice in plan.layers.values()} <= {"svd", "spatial"}
    assert algebra.params(survey(model, EXAMPLE).convs["project"]) == HIDDEN * 8 + 8
