"""Plans for a budget of time. The times themselves are scripted, so that nothing depends on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import decompose
from decompose.algebra import Conv
from decompose.compression.search import latency_budget
from decompose.inference.latency import Latencies
from decompose.layers.costs import count_macs, expression_macs, trace_shapes
from decompose.utils.errors import DecomposeError
from tests.support.strategies import Mixed

X = torch.zeros(2, 3, 32, 32)
METHODS = ("pw_dw", "spatial")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _: str(tmp_path))


def test_a_plan_is_timed_and_says_how_fast_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    time = latency_budget.time_models

    def as_fast_as_planned(*arguments: Any) -> dict[str, float]:
        return dict.fromkeys(time(*arguments), 5.0)

    monkeypatch.setattr(latency_budget, "time_models", as_fast_as_planned)
    plan = decompose.plan(Mixed(), X, latency=1.0, engine="onnxruntime", threads=1, methods=METHODS)
    assert plan.pace is not None
    assert plan.pace.place.startswith("onnxruntime")
    assert plan.pace.batch_size == 2
    assert plan.pace.original_ms == plan.pace.measured_ms == 5.0
    assert plan.pace.predicted_ms <= 5.0
    assert decompose.Plan.from_json(plan.to_json()) == plan


def test_layers_that_would_be_slower_stay_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    slower = [1.0, *[2.0] * 1000]
    monkeypatch.setattr(
        Latencies, "measure", lambda self, dense, found, shape: slower[: len(found)]
    )
    plan = decompose.plan(Mixed(), X, latency=1.0, methods=METHODS)
    assert not plan.layers
    with pytest.raises(DecomposeError, match=r"no plan takes 50% of the original's .* it is 100%"):
        decompose.plan(Mixed(), X, latency=0.5, methods=METHODS)


def test_a_plan_that_misses_its_budget_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine takes a constant more than the layers promise, until half of that is taken off."""
    model = Mixed()
    shapes = trace_shapes(model, X)

    def time(networks: dict[str, nn.Module], *_: object) -> dict[str, float]:
        counted = {
            name: sum(count_macs(model, shapes).values()) for name, model in networks.items()
        }
        whole = counted["original"]
        return {
            name: 1e3 * macs / whole + 100 * (name != "original") for name, macs in counted.items()
        }

    def measure(self: object, dense: Conv, found: list, shape: tuple) -> list[float]:
        whole = sum(count_macs(model, shapes).values())
        taken = [expression_macs(variant.of(dense), (1, *shape[1:])) for variant in found]
        return [1e3 * macs / whole for macs in taken]

    monkeypatch.setattr(latency_budget, "time_models", time)
    monkeypatch.setattr(Latencies, "measure", measure)
    plan = decompose.plan(model, X, latency=0.7, methods=METHODS)
    assert plan.pace is not None
    assert plan.pace.measured_ms <= 0.7 * plan.pace.original_ms
    assert plan.pace.predicted_ms == pytest.approx(plan.pace.measured_ms - 100, rel=1e-3)
