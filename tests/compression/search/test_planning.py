"""Plans made from options."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import decompose
from decompose import Choice, DecomposeError
from decompose.data.synthetic import synthetic_inputs
from decompose.evaluation.comparison import compare_weights
from decompose.layers.discovery import find_decomposable
from decompose.layers.modules import to_conv
from decompose.methods import get_method
from tests.support.strategies import Mixed

EXAMPLE = torch.zeros(1, 3, 32, 32)


def ranks(plan: decompose.Plan) -> dict[str, int]:
    return {name: choice.rank for name, choice in plan.layers.items()}


def test_one_rank_for_all() -> None:
    plan = decompose.plan(Mixed(), EXAMPLE, method="dw_pw", rank=2)
    assert set(plan.layers.values()) == {Choice("dw_pw", 2)}
    assert plan.dense == {
        "depthwise": "depthwise",
        "pointwise": "pointwise",
        "classifier": "pointwise",
    }


def test_a_rank_for_each_name_or_pattern() -> None:
    plan = decompose.plan(Mixed(), EXAMPLE, rank={"blocks.*": 2, "blocks.1.0": 3, "heads": 4})
    assert ranks(plan) == {"blocks.0.0": 2, "blocks.1.0": 3, "heads.mask": 4}
    assert plan.dense["stem"] == "no rank given"


def test_a_pattern_takes_each_layers_own_bound() -> None:
    plan = decompose.plan(Mixed(), EXAMPLE, rank={"*": 9, "stem": 3})
    assert plan.layers["stem"].rank == 3
    plan = decompose.plan(Mixed(), EXAMPLE, rank={"stem": 3})
    assert ranks(plan) == {"stem": 3}


def test_numbers_of_other_libraries_are_numbers() -> None:
    two: Any = np.int64(2)
    plan = decompose.plan(Mixed(), EXAMPLE, rank=two)
    assert plan.layers["grouped"] == Choice("pw_dw", 2)
    assert decompose.plan(Mixed(), EXAMPLE, rank=2, skip="stem").dense["stem"] == "skipped by name"
    half: Any = 2.0
    with pytest.raises(DecomposeError, match=r"rank 2\.0 is no whole number"):
        decompose.plan(Mixed(), EXAMPLE, rank=half)


def test_what_costs_more_stays_dense_unless_named() -> None:
    assert "costs no less" in decompose.plan(Mixed(), EXAMPLE, rank=9).dense["blocks.0.0"]
    named = decompose.plan(Mixed(), EXAMPLE, rank={"blocks.0.0": 9})
    assert named.layers["blocks.0.0"].rank == 9


def test_the_energy_sets_each_layers_rank() -> None:
    model = Mixed()
    plan = decompose.plan(model, EXAMPLE, energy=0.5)
    method = get_method("pw_dw")
    for name, choice in plan.layers.items():
        module = model.get_submodule(name)
        assert choice.rank == method.rank_for_energy(to_conv(module), 0.5)  # type: ignore[arg-type]
    assert plan.layers


def test_layers_are_skipped_by_name_module_or_pattern() -> None:
    plan = decompose.plan(Mixed(), EXAMPLE, rank=2, skip=["stem", "blocks", "gr*"])
    assert ranks(plan) == {"heads.mask": 2}
    assert plan.dense["blocks.1.0"] == "skipped by name"


def test_layers_that_cannot_be_judged_stay_dense() -> None:
    model = Mixed()
    model.add_module("unused", nn.Conv2d(8, 8, 3))
    model.stem.register_forward_hook(lambda *_: None)
    plan = decompose.plan(model, EXAMPLE, rank=2)
    assert plan.dense["unused"] == "not reached by the example"
    assert plan.dense["stem"] == "it has hooks"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one of rank, energy or ratio"),
        ({"rank": 2, "energy": 0.9}, "give one of"),
        ({"rank": 0}, "rank 0 of pw_dw is out of bounds: it is 1 to 16"),
        ({"rank": 17}, "rank 17 of pw_dw is out of bounds: it is 1 to 16"),
        ({"rank": {"stem": 4}}, "rank 4 of pw_dw for stem is out of bounds: it is 1 to 3"),
        ({"energy": 1.2}, "energy 1.2 is out of bounds"),
        ({"macs": 0.5, "params": 0.5}, "goes with methods and skip only"),
        ({"macs": 0.5, "rank": 2}, "goes with methods and skip only"),
        ({"rank": 2, "methods": ["svd"]}, "a budget chooses from methods"),
        ({"macs": 0.001}, "no plan meets the budget of .* MACs: the least is"),
        ({"macs": 1.5}, "macs 1.5 is out of bounds"),
        ({"method": "spatial+pw_dw", "ratio": 2}, "of a combination, give"),
        ({"rank": 2, "method": "sdv"}, "there are: pw_dw, dw_pw"),
        ({"rank": 2, "skip": ["conv9"]}, "conv9: no layer has that name; there are: stem"),
        ({"rank": {"conv9": 2}}, "conv9: no layer"),
    ],
)
def test_options_that_contradict_or_cannot_be_met(options: dict, message: str) -> None:
    with pytest.raises(DecomposeError, match=message):
        decompose.plan(Mixed(), EXAMPLE, **options)


def test_a_model_without_layers() -> None:
    with pytest.raises(DecomposeError, match="no layer to decompose"):
        decompose.plan(nn.ReLU(), torch.zeros(1, 3), rank=1)


def test_combinations_take_a_ratio_and_an_inner_rank() -> None:
    model = Mixed()
    plan = decompose.plan(model, EXAMPLE, method="spatial+pw_dw", ratio=2, rank=2)
    assert plan.layers["heads.mask"].label == "spatial+pw_dw"
    small = decompose.apply(plan, model)
    assert small(EXAMPLE).shape == model(EXAMPLE).shape


@pytest.mark.parametrize("unit", ["macs", "params"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_budget_is_kept_and_spent(unit: str, share: float) -> None:
    model = Mixed().eval()
    macs, params = (share, None) if unit == "macs" else (None, share)
    plan = decompose.plan(model, EXAMPLE, macs=macs, params=params)
    small = decompose.apply(plan, model)
    costs = getattr(compare_weights(model, small, EXAMPLE), unit)
    assert costs.after <= share * costs.before
    assert costs.after > 0.8 * share * costs.before
    assert set(plan.layers) | set(plan.dense) == set(find_decomposable(model))


def test_the_mixture_beats_one_method_at_the_same_cost() -> None:
    model = Mixed().eval()
    uniform = decompose.apply(decompose.plan(model, EXAMPLE, rank=3), model)
    costs = compare_weights(model, uniform, EXAMPLE)
    share = costs.macs.after / costs.macs.before
    mixed = decompose.apply(decompose.plan(model, EXAMPLE, macs=share), model)
    inputs = synthetic_inputs(EXAMPLE, num=8, seed=1)
    errors = [decompose.compare(model, n, inputs).output_error or 1.0 for n in (mixed, uniform)]
    assert errors[0] < errors[1]


def test_a_budget_chooses_from_the_methods_given() -> None:
    plan = decompose.plan(Mixed(), EXAMPLE, params=0.6, methods=["dw_pw", "svd"], skip=["stem"])
    assert {choice.method for choice in plan.layers.values()} <= {"dw_pw", "svd"}
    assert plan.dense["stem"] == "skipped by name"


def test_a_model_over_sound_is_planned_and_repaired_without_data() -> None:
    model = nn.Sequential(
        nn.Conv1d(1, 24, 9, stride=4),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.Conv1d(24, 32, 5),
        nn.ReLU(),
    ).eval()
    example = torch.zeros(1, 1, 400)
    plan = decompose.plan(model, example, macs=0.6)
    small = decompose.apply(plan, model)
    held = synthetic_inputs(example, num=4, seed=7)
    truncated = decompose.compare(model, small, held).output_error or 0.0
    repaired = decompose.apply(plan, model, calibrate=synthetic_inputs(example, num=8))
    assert (decompose.compare(model, repaired, held).output_error or 1.0) < truncated


class Masked(nn.Module):
    """Two of ten scores are never chosen."""

    def __init__(self, masked: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten()
        )
        self.head = nn.Linear(8 * 36, 10)
        self.masked = masked

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores, some of them masked."""
        scores = self.head(self.body(x))
        mask = torch.arange(10) < 2
        return scores.masked_fill(mask, self.masked)


@pytest.mark.parametrize("masked", [float("-inf"), float("nan")])
def test_scores_that_are_not_finite_are_left_out(masked: float) -> None:
    example, images = torch.zeros(1, 3, 6, 6), torch.randn(4, 3, 6, 6)
    model = Masked(masked).eval()
    control = Masked(0.0).eval()
    control.load_state_dict(model.state_dict())
    options: dict[str, Any] = {"macs": 0.6, "methods": ["spatial", "svd"], "calibrate": images}
    with pytest.warns(UserWarning, match="8 of 40 outputs .* are NaN or infinite"):
        plan = decompose.plan(model, example, **options)
    expected = decompose.plan(control, example, **options)
    assert plan.layers == expected.layers
    small = decompose.apply(plan, model)
    with pytest.warns(UserWarning, match="are left out of what is compared"):
        comparison = decompose.compare(model, small, images)
    assert comparison.output_error is not None
    assert 0 < comparison.output_error < 1


def test_outputs_of_which_none_is_finite_are_refused() -> None:
    model = Masked(0.0).eval()
    model.head.weight.data.fill_(1e38)
    with pytest.raises(DecomposeError, match="are NaN or infinite on all inputs"):
        decompose.plan(
            nn.Sequential(model, nn.Softmax(1)), torch.randn(1, 3, 6, 6), macs=0.5, methods=["svd"]
        )


class Sharing(nn.Module):
    """Two convolutions of one weight, and a classifier tied to an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.b = nn.Conv2d(8, 8, 3, padding=2, dilation=2, bias=False)
        self.b.weight = self.a.weight
        self.again = self.a
        self.rest = nn.Conv2d(8, 16, 3)
        self.embedding = nn.Embedding(20, 16)
        self.classifier = nn.Linear(16, 20, bias=False)
        self.classifier.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, 8, H, W)`` to ``(batch, 20)``."""
        x = self.rest(self.again(self.b(self.a(x))))
        return self.classifier(x.mean((2, 3)) + self.embedding(torch.tensor(3)))


@pytest.mark.parametrize("share", [0.8, 0.6, 0.4])
def test_a_shared_weight_counts_once_before_and_after(share: float) -> None:
    model, example = Sharing().eval(), torch.zeros(1, 8, 6, 6)
    plan = decompose.plan(model, example, params=share, methods=["spatial", "svd"])
    assert plan.dense["classifier"] == "its weight is embedding.weight as well"
    comparison = compare_weights(model, decompose.apply(plan, model), example)
    assert comparison.params.before == 8 * 8 * 9 + 16 * 8 * 9 + 16 + 16 * 20
    assert 0 < comparison.params.after <= share * comparison.params.before


def test_a_budget_that_a_tied_weight_takes_is_refused() -> None:
    with pytest.raises(DecomposeError, match="no plan meets the budget"):
        decompose.plan(Sharing().eval(), torch.zeros(1, 8, 6, 6), params=0.1, methods=["svd"])


def test_every_budget_takes_multiples() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 48, 3), nn.ReLU(), nn.Conv2d(48, 40, 3)).eval()
    example = torch.zeros(1, 16, 12, 12)
    images = torch.randn(8, 16, 12, 12)
    budgets: list[dict[str, Any]] = [{"macs": 0.5}, {"params": 0.5}]
    for budget in (*budgets, {"macs": 0.5, "calibrate": images}):
        plan = decompose.plan(model, example, methods=("spatial", "tucker"), multiple=8, **budget)
        assert plan.layers
        assert all(choice.rank % 8 == 0 for choice in plan.layers.values())


def test_a_multiple_is_checked() -> None:
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"rank": 2, "method": "pw_dw"}, "multiple 8 is without effect: the ranks of pw_dw"),
        ({"macs": 0.5, "methods": ("pw_dw", "dw_pw")}, "without effect"),
        ({"rank": 12, "method": "spatial"}, "rank 12 is no multiple of 8"),
    ]
    for options, message in mistakes:
        with pytest.raises(DecomposeError, match=message):
            decompose.plan(Mixed(), EXAMPLE, multiple=8, **options)
    with pytest.raises(DecomposeError, match="multiple 0: must be 1 or more"):
        decompose.plan(Mixed(), EXAMPLE, rank=2, method="spatial", multiple=0)
