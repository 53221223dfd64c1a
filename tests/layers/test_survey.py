"""One survey of a model's layers, and how often a plan and a repair look."""

import importlib
import sys
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

import decompose
from decompose.layers.survey import survey
from tests.support.strategies import Mixed

X = torch.zeros(1, 3, 12, 12)


def test_it_says_of_each_layer_what_is_known() -> None:
    model = Mixed().train()
    known = survey(model, X, ["stem"])
    assert known.layers["grouped"] is model.grouped
    assert known.convs["grouped"].weight.data_ptr() == model.grouped.weight.data_ptr()
    assert known.dense == {"stem": "skipped by name"}
    assert known.num_calls["blocks.0.0"] == 2
    assert known.shapes["stem"] == [(1, 3, 12, 12)]
    assert set(known.rectifiers(known.layers)) == {"stem", "blocks.1.0", "blocks.0.0", "pointwise"}
    assert model.training


def test_operators_know_the_layer_that_runs_them() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1, padding=1))
    consumers = survey(model, X).consumers
    (written,) = consumers.outputs["0"]
    (relu,) = written.uses
    assert (relu.operator, relu.inside) == ("relu", "")
    assert relu.result is not None
    assert relu.result is consumers.inputs["2"][0]
    assert [use.inside for use in relu.result.uses] == ["2"]
    assert [use.operator for use in consumers.outputs["2"][0].uses] == ["output"]
    assert consumers.inputs["0"] == [None]


def test_a_model_without_layers_needs_no_pass() -> None:
    assert not survey(nn.ReLU(), X).layers


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each of these functions is called, from wherever it was imported."""
    counts: Counter[str] = Counter()

    def count(name: str, module: str) -> None:
        function = getattr(importlib.import_module(module), name)

        def counted(*args: object, **kwargs: object) -> object:
            counts[name] += 1
            return function(*args, **kwargs)

        for holder in [m for n, m in sys.modules.items() if n.startswith("decompose.")]:
            if getattr(holder, name, None) is function:
                monkeypatch.setattr(holder, name, counted)

    count("find_decomposable", "decompose.layers.discovery")
    count("trace_shapes", "decompose.layers.costs")
    count("find_consumers", "decompose.layers.consumers")
    return counts


ONCE = {"find_decomposable": 1, "trace_shapes": 1, "find_consumers": 1}


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 1},
        {"params": 0.5, "methods": ["pw_dw"]},
        {"macs": 0.5, "methods": ["pw_dw"], "calibrate": torch.randn(2, 3, 12, 12)},
    ],
)
def test_a_plan_surveys_once(calls: Counter[str], options: dict) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    decompose.plan(model, X, **options)
    assert calls == ONCE


@pytest.mark.filterwarnings("ignore:left as truncated")
def test_a_repair_surveys_once(calls: Counter[str]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    inputs = torch.randn(2, 3, 12, 12)
    plan = decompose.plan(model, X, rank=1)
    calls.clear()
    decompose.apply(plan, model, calibrate=inputs)
    assert calls == ONCE
    calls.clear()
    decompose.measure(model, X, inputs, methods=["pw_dw"])
    assert calls == ONCE


@pytest.mark.filterwarnings("ignore:left as truncated")
def test_weights_are_tested_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    inputs = torch.randn(2, 3, 12, 12)
    tested: Counter[int] = Counter()
    plain = torch.isfinite

    def counted(tensor: Tensor) -> Tensor:
        tested[id(tensor)] += 1
        return plain(tensor)

    monkeypatch.setattr(torch, "isfinite", counted)
    plan = decompose.plan(model, X, macs=0.5, methods=["pw_dw"], calibrate=inputs)
    assert [tested[id(layer.weight)] for layer in (model[0], model[2])] == [1, 1]
    decompose.apply(plan, model, calibrate=inputs)
    assert [tested[id(layer.weight)] for layer in (model[0], model[2])] == [2, 2]
