"""What a model is made of."""

import json

import pytest
import torch
from torch import nn

import decompose
from decompose.evaluation.inspection import inspect_layers
from decompose.layers.modules import to_conv
from decompose.methods import METHODS
from tests.support.strategies import Mixed

X = torch.zeros(1, 3, 32, 32)


def test_every_layer_is_listed_with_its_energy() -> None:
    model = Mixed()
    inspection = inspect_layers(model, X)
    layers = {layer.name: layer for layer in inspection.layers}
    assert (layers["classifier"].method, layers["classifier"].shape) == ("dense", "32→7")
    assert layers["grouped"].shape == "3x3 32→32 /2"
    assert layers["pointwise"].energy == {}
    assert layers["depthwise"].energy == {}
    expected = METHODS["dw_pw"].energy(to_conv(model.grouped))
    assert layers["grouped"].energy["dw_pw"] == pytest.approx(expected.tolist())
    assert inspection.macs == sum(layer.macs for layer in inspection.layers)
    assert json.loads(json.dumps(inspection.to_dict()))["macs"] == inspection.macs


def test_a_rewritten_layer_shows_what_is_left() -> None:
    model = Mixed().double()
    small = decompose.apply(decompose.plan(model, X.double(), rank=2), model)
    layer = next(layer for layer in inspect_layers(small, X.double()).layers if layer.rank == "2")
    assert layer.method == "pw_dw"
    assert layer.energy["pw_dw"][1] == pytest.approx(1)


def test_the_table_shows_either_view() -> None:
    inspection = inspect_layers(Mixed(), X)
    energy, variance = inspection.table("pw_dw"), inspection.table("pw_dw", centred=True)
    assert "energy of first terms, pw_dw" in energy.title
    assert "variance explained" in variance.title
    assert energy.rows != variance.rows
    assert all(len(row) == len(energy.columns) for row in [*energy.rows, energy.total or ()])


def test_the_real_vgg16_is_held_by_few_terms(vgg16: nn.Module) -> None:
    inspection = inspect_layers(vgg16, X)
    for layer in inspection.layers:
        assert layer.energy["pw_dw"][min(3, len(layer.energy["pw_dw"]) - 1)] > 0.9
