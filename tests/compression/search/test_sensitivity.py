"""Gains: what predicted errors are to be multiplied by."""

import pytest
import torch
from torch import nn

from decompose import algebra
from decompose.compression.search.candidates import options
from decompose.compression.search.error_prediction import output_error
from decompose.compression.search.sensitivity import measure_sensitivity
from decompose.compression.statistics import gather
from decompose.data.synthetic import synthetic_inputs
from decompose.layers.modules import to_conv
from decompose.layers.survey import survey
from decompose.methods.combinations import parse_combination

EXAMPLE = torch.zeros(1, 3, 16, 16)


@pytest.mark.parametrize("repaired", [False, True])
def test_a_gain_for_every_kind_of_option(repaired: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    inputs = synthetic_inputs(EXAMPLE, num=8)
    known = survey(network, EXAMPLE)
    statistics = gather(network, inputs, known.layers)
    combinations = [
        parse_combination(name) for name in ("pw_dw", "dw_pw", "spatial", "spatial+dw_pw")
    ]
    scored = {}
    for name in ("0", "2"):
        conv = to_conv(network.get_submodule(name))  # type: ignore[arg-type]
        error = output_error(conv, statistics.layers[name])
        scored[name] = options(conv, combinations, algebra.params, error)
    gains = measure_sensitivity(known, inputs, scored, repaired=repaired)
    assert set(gains) == {"0", "2"}
    for name, found in scored.items():
        assert set(gains[name]) == {option.label for option in found}
        assert all(gain > 0 for gain in gains[name].values())
    if not repaired:
        # Nothing stands behind the last layer, so its gains are what means and chance make.
        assert all(0.3 < gain < 10 for gain in gains["2"].values())
