"""From a wish to a plan."""

import pytest
import torch
from torch import nn

import decompose
from decompose import Choice, DecomposeError
from decompose.methods import get_method
from decompose.modules import to_conv
from tests.strategies import Mixed

EXAMPLE = torch.zeros(1, 3, 32, 32)


def ranks(plan: decompose.Plan) -> dict[str, int]:
    return {name: choice.rank for name, choice in plan.layers.items()}


def test_one_rank_for_all() -> None:
    plan = decompose.plan(Mixed(), EXAMPLE, method="dw_pw", rank=2)
    assert set(plan.layers.values()) == {Choice("dw_pw", 2)}
    assert plan.dense == {"depthwise": "depthwise", "pointwise": "pointwise"}


def test_a_rank_for_each_name_or_pattern() -> None:
    plan = decompose.plan(Mixed(), EXAMPLE, rank={"blocks.*": 2, "blocks.1.0": 3, "heads": 4})
    assert ranks(plan) == {"blocks.0.0": 2, "blocks.1.0": 3, "heads.mask": 4}
    assert plan.dense["stem"] == "no rank given"


def test_a_pattern_takes_each_layers_own_bound() -> None:
    plan = decompose.plan(Mixed(), EXAMPLE, rank={"*": 9, "stem": 3})
    assert plan.layers["stem"].rank == 3
    plan = decompose.plan(Mixed(), EXAMPLE, rank={"stem": 3})
    assert ranks(plan) == {"stem": 3}


def test_what_costs_more_stays_dense_unless_named() -> None:
    assert "costs no less" in decompose.plan(Mixed(), EXAMPLE, rank=9).dense["blocks.0.0"]
    named = decompose.plan(Mixed(), EXAMPLE, rank={"blocks.0.0": 9})
    assert named.layers["blocks.0.0"].rank == 9


def test_the_energy_sets_each_layers_rank() -> None:
    network = Mixed()
    plan = decompose.plan(network, EXAMPLE, energy=0.5)
    method = get_method("pw_dw")
    for name, choice in plan.layers.items():
        module = network.get_submodule(name)
        assert choice.rank == method.rank_for_energy(to_conv(module), 0.5)  # type: ignore[arg-type]
    assert plan.layers


def test_layers_are_skipped_by_name_module_or_pattern() -> None:
    plan = decompose.plan(Mixed(), EXAMPLE, rank=2, skip=["stem", "blocks", "gr*"])
    assert ranks(plan) == {"heads.mask": 2}
    assert plan.dense["blocks.1.0"] == "skipped by name"


def test_layers_that_cannot_be_judged_stay_dense() -> None:
    network = Mixed()
    network.add_module("unused", nn.Conv2d(8, 8, 3))
    network.stem.register_forward_hook(lambda *_: None)
    plan = decompose.plan(network, EXAMPLE, rank=2)
    assert plan.dense["unused"] == "not reached by the example"
    assert plan.dense["stem"] == "it has hooks"


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({}, "a rank or an energy"),
        ({"rank": 2, "energy": 0.9}, "not both"),
        ({"rank": 0}, "rank 0 of pw_dw is out of bounds: it is 1 to 16"),
        ({"rank": 17}, "rank 17 of pw_dw is out of bounds: it is 1 to 16"),
        ({"rank": {"stem": 4}}, "rank 4 of pw_dw for stem is out of bounds: it is 1 to 3"),
        ({"energy": 1.2}, "energy 1.2 is out of bounds"),
        ({"rank": 2, "method": "svd"}, "there are: pw_dw, dw_pw"),
        ({"rank": 2, "skip": ["conv9"]}, "conv9: no convolution has that name; there are: stem"),
        ({"rank": {"conv9": 2}}, "conv9: no convolution"),
    ],
)
def test_wishes_that_cannot_be_met(wish: dict, message: str) -> None:
    with pytest.raises(DecomposeError, match=message):
        decompose.plan(Mixed(), EXAMPLE, **wish)


def test_a_network_without_convolutions() -> None:
    with pytest.raises(DecomposeError, match="no convolution to decompose"):
        decompose.plan(nn.Linear(3, 3), torch.zeros(1, 3), rank=1)
