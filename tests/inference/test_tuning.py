"""The fastest form is taken. The times themselves are scripted, so that nothing depends on them."""

from pathlib import Path

import pytest
import torch

import decompose
from decompose import DecomposeError
from decompose.inference import tuning
from decompose.inference.latency import Latencies, LayerVariant
from decompose.models.conversion import plan_of
from tests.support.strategies import Mixed

X = torch.randn(2, 3, 32, 32)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _: str(tmp_path))


def small_network() -> torch.nn.Module:
    model = Mixed().eval()
    return decompose.apply(decompose.plan(model, X, rank=2), model)


def script(
    monkeypatch: pytest.MonkeyPatch, milliseconds: dict[str, float], whole: dict[str, float]
) -> None:
    def measure(
        self: object, dense: object, variants: list[LayerVariant], shape: object
    ) -> list[float]:
        return [milliseconds.get(variant.form, 9.0) for variant in variants]

    monkeypatch.setattr(Latencies, "measure", measure)
    monkeypatch.setattr(tuning, "time_models", lambda *_: whole)


@pytest.mark.parametrize("fastest", ["merged", "dense", "branches-whole"])
def test_the_fastest_form_is_taken(fastest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, {fastest: 1.0}, {"before": 5.0, "after": 4.0})
    small = small_network()
    tuned = decompose.tune(small, X)
    assert dict(plan_of(tuned.network).forms) == dict.fromkeys(plan_of(small).layers, fastest)
    assert not plan_of(small).forms
    torch.testing.assert_close(tuned.network(X), small(X), rtol=1e-4, atol=1e-5)
    assert "model: 5.0 ms, then 4.0 ms" in str(tuned.table())


def test_a_form_that_is_hardly_faster_is_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, {"branches": 1.0, "merged": 0.99}, {"before": 5.0, "after": 4.0})
    assert not plan_of(decompose.tune(small_network(), X).network).forms


def test_a_network_that_is_slower_as_a_whole_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, {"merged": 1.0}, {"before": 5.0, "after": 5.5})
    tuned = decompose.tune(small_network(), X, engine="onnxruntime")
    assert not plan_of(tuned.network).forms
    assert tuned.after_ms == tuned.before_ms == 5.0
    assert {layer.after for layer in tuned.layers} == {"branches"}


def test_forms_are_really_timed() -> None:
    small = small_network()
    tuned = decompose.tune(small, X, engine="onnxruntime", threads=1)
    assert {layer.name for layer in tuned.layers} == set(plan_of(small).layers)
    assert all(set(layer.milliseconds) == {"branches", "merged", "dense"} for layer in tuned.layers)
    assert all(ms > 0 for layer in tuned.layers for ms in layer.milliseconds.values())


def test_a_network_without_rewritten_layers_is_refused() -> None:
    with pytest.raises(DecomposeError, match="no decomposed layer"):
        decompose.tune(Mixed(), X)
