"""Efforts by name."""

import pytest
import torch
from torch import nn

import decompose
from decompose.compression.effort import DEFAULT_EFFORT, EFFORTS, effort_of
from decompose.utils.errors import DecomposeError


def test_more_effort_measures_more() -> None:
    quick, normal, thorough = (effort_of(name) for name in ("quick", "normal", "thorough"))
    assert quick.num_measured < normal.num_measured < thorough.num_measured
    assert quick.fewest_inputs <= normal.fewest_inputs <= thorough.fewest_inputs
    assert set(EFFORTS) == {"quick", DEFAULT_EFFORT, "thorough"}


@pytest.mark.parametrize("effort", EFFORTS)
def test_every_effort_keeps_the_budget_and_repairs(effort: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    images = torch.randn(8, 3, 12, 12)
    plan = decompose.plan(model, images[:1], macs=0.5, calibrate=images, effort=effort)
    small = decompose.apply(plan, model, calibrate=images, effort=effort)
    truncated = decompose.apply(plan, model)
    compared = decompose.compare(model, small, images)
    assert compared.macs.after <= 0.5 * compared.macs.before
    error = decompose.compare(model, truncated, images).output_error
    assert (compared.output_error or 1.0) < (error or 0.0)


def test_an_unknown_effort_is_refused_before_any_work() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3)).eval()
    with pytest.raises(DecomposeError, match=r"effort 'huge': choose of quick, normal, thorough"):
        decompose.plan(model, torch.zeros(1, 3, 8, 8), macs=0.5, effort="huge")
    with pytest.raises(DecomposeError, match="effort 'huge'"):
        decompose.apply(decompose.Plan({}, {}), model, effort="huge")
