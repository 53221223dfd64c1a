"""What a report says of models."""

import json

import pytest
import torch
from torch import nn

import decompose
from decompose.evaluation.report.contents import make_report
from decompose.evaluation.report.spectra import layer_spectra
from decompose.layers.modules import to_conv
from decompose.methods import METHODS
from decompose.utils.errors import DecomposeError
from tests.evaluation.report.cases import made_up_report

X = torch.zeros(1, 8, 12, 12)


def model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.Flatten(), nn.Linear(800, 4)
    ).eval()


def test_figures_are_those_of_compare_and_of_the_plan() -> None:
    original = model()
    plan = decompose.plan(original, X, rank=2)
    small = decompose.apply(plan, original)
    images = torch.randn(20, 8, 12, 12)
    models = {"whole": original, "small": small}
    report = make_report(models, images, example=X, images_in_words="noise")
    record = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    compared = decompose.compare(original, small, images)
    assert [m["macs"] for m in record["models"]] == [compared.macs.before, compared.macs.after]
    assert [m["params"] for m in record["models"]] == [
        compared.params.before,
        compared.params.after,
    ]
    fidelity = record["models"][1]["fidelity"]
    assert fidelity["output_error"]["value"] == pytest.approx(compared.output_error)
    assert (
        fidelity["output_error"]["low"] <= compared.output_error <= fidelity["output_error"]["high"]
    )
    assert fidelity["agreement"]["low"] < fidelity["agreement"]["high"]
    assert [layer["name"] for layer in record["layers"]["small"]] == ["0", "2", "4"]
    assert json.loads(record["plans"]["small"])["layers"] == {"0": {"method": "pw_dw", "rank": 2}}


def test_infinite_errors_become_null() -> None:
    layers = made_up_report().to_dict()["layers"]["half.safetensors"]
    assert layers[1]["weight_error"] is None


def test_a_report_needs_a_compressed_model() -> None:
    with pytest.raises(DecomposeError, match="beside the original"):
        make_report({"whole": model()}, X, example=X, images_in_words="noise")


def test_a_spectrum_is_the_methods_energy_at_the_macs_of_each_rank() -> None:
    original = model()
    spectra = layer_spectra(original, X)
    first = original[0]
    assert isinstance(first, nn.Conv2d)
    conv = to_conv(first)
    for name, curve in spectra["0"].curves.items():
        energy = METHODS[name].energy(conv)
        assert curve[-1].rank == METHODS[name].max_rank(conv)
        assert all(point.energy == pytest.approx(float(energy[point.rank - 1])) for point in curve)
        assert list(curve) == sorted(curve)
    assert "svd" in spectra["2"].curves


def test_layers_without_a_spectrum_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    grouped = nn.Sequential(nn.Conv2d(8, 8, 1, groups=8))
    assert layer_spectra(grouped, X)["0"].why_none
    monkeypatch.setattr("decompose.evaluation.report.spectra._MOST_WORK", 1.0)
    assert "too large" in layer_spectra(model(), X)["0"].why_none
