"""Plans of models that are decomposed already: sources like any others."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import decompose
from decompose import Choice, DecomposeError, Plan
from decompose.algebra import Deviation
from decompose.compression.reconstruction.repair import repair_
from decompose.inference.latency import Latencies
from decompose.layers.costs import count_macs, count_params, trace_shapes
from decompose.layers.discovery import find_decomposed
from decompose.models.conversion import plan_of, recomposed
from decompose.models.plans import KEPT

EXAMPLE = torch.zeros(1, 3, 16, 16)
METHODS = ("pw_dw", "spatial", "channel")


def smooth(seed: int = 0) -> nn.Sequential:
    """A network whose kernels have spectra that fall, as trained ones have."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    ).eval()
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            u, s, v = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)
            falling = s[0] * 0.93 ** torch.arange(len(s))
            layer.weight.data = (u * falling @ v).reshape(layer.weight.shape)
    return model


def macs(model: nn.Module) -> int:
    return sum(count_macs(model, trace_shapes(model, EXAMPLE)).values())


def error(small: nn.Module, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return Deviation.between(small(x), model(x)).relative


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def small() -> nn.Module:
    model = smooth()
    return decompose.apply(decompose.plan(model, EXAMPLE, macs=0.7, methods=METHODS), model)


@pytest.mark.filterwarnings("ignore:left as truncated")
def test_two_steps_lose_about_as_much_as_one(images: Tensor, tmp_path: Path) -> None:
    model, others = smooth(), torch.rand(64, 3, 16, 16)

    def compressed(source: nn.Module, share: float) -> nn.Module:
        plan = decompose.plan(source, EXAMPLE, macs=share, methods=METHODS, calibrate=images)
        return decompose.apply(plan, source, calibrate=images)

    once = compressed(model, 0.4)
    first = compressed(model, 0.7)
    twice = compressed(first, 0.4 * macs(model) / macs(first))
    assert 0.3 < macs(twice) / macs(model) <= 0.4
    assert macs(twice) < macs(first) < macs(model)
    assert error(twice, model, others) < 2 * error(once, model, others) + 0.01
    decompose.save(twice, tmp_path / "twice.safetensors")
    again = decompose.load(tmp_path / "twice.safetensors", smooth(1))
    assert torch.equal(again(others), twice(others))
    assert plan_of(again) == plan_of(twice)


def test_layers_that_are_worth_their_cost_stay_as_they_are(small: nn.Module) -> None:
    plan = decompose.plan(small, EXAMPLE, macs=1.0, methods=METHODS)
    assert not plan.layers
    assert {name for name, reason in plan.dense.items() if reason == KEPT} == set(
        find_decomposed(small)
    )
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(decompose.apply(plan, small)(x), small(x))


@pytest.mark.parametrize("budget", ["macs", "params"])
def test_a_budget_is_a_share_of_the_decomposed_source(small: nn.Module, budget: str) -> None:
    share = {budget: 0.6}
    plan = decompose.plan(
        small, EXAMPLE, methods=METHODS, macs=share.get("macs"), params=share.get("params")
    )
    smaller = decompose.apply(plan, small)
    counted = macs if budget == "macs" else count_params
    assert 0.5 < counted(smaller) / counted(small) <= 0.6


def test_a_latency_is_that_of_the_factors(
    small: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every variant takes as long, nothing is faster than the factors."""
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _: str(tmp_path))
    monkeypatch.setattr(Latencies, "measure", lambda self, dense, found, shape: [1.0] * len(found))
    plan = decompose.plan(small, EXAMPLE, latency=1.0, methods=("pw_dw", "spatial"))
    assert not plan.layers


def test_one_rule_for_all_layers_decomposes_anew(small: nn.Module) -> None:
    plan = decompose.plan(small, EXAMPLE, method="channel", rank={"4": 6})
    smaller = decompose.apply(plan, small)
    (expected,) = [
        decompose.apply(Plan({"4": Choice("channel", 6)}), recomposed(small)).get_submodule("4")
    ]
    x = torch.rand(2, 24, 8, 8)
    torch.testing.assert_close(smaller.get_submodule("4")(x), expected(x), rtol=1e-4, atol=1e-5)
    assert plan_of(smaller).layers["4"] == Choice("channel", 6)


def factored() -> tuple[nn.Module, nn.Module]:
    model = smooth().double()
    return model, decompose.apply(
        Plan({"2": Choice("spatial", 20), "4": Choice("channel", 12)}), model
    )


def test_factors_decomposed_at_full_rank_change_nothing(tmp_path: Path) -> None:
    model, first = factored()
    further = Plan({"2": Choice("factors", 2, (None, Choice("dw_pw", 3)))})
    second = decompose.apply(further, first)
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(second(x), first(x), rtol=1e-9, atol=1e-9)
    joined = {"2": Choice("spatial", 20, (None, Choice("dw_pw", 3))), "4": Choice("channel", 12)}
    assert plan_of(second).layers == joined
    # One step from the original makes layers of the same shapes.
    decompose.save(second, tmp_path / "second.safetensors")
    assert torch.equal(decompose.load(tmp_path / "second.safetensors", model)(x), second(x))
    unchanged = decompose.apply(Plan({"2": Choice("factors", 7, (None,) * 7)}), second)
    assert torch.equal(unchanged(x), second(x))
    assert plan_of(unchanged) == plan_of(second)


def test_the_factors_that_stay_are_no_longer_those_of_the_source() -> None:
    _, first = factored()
    inputs = torch.rand(8, 3, 16, 16, dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    further = Plan(
        {
            "2": Choice("factors", 2, (Choice("dw_pw", 1), None)),
            "4": Choice("factors", 2, (Choice("pw_dw", 2), None)),
        }
    )
    second = decompose.apply(further, first, calibrate=inputs)
    assert not storages(first) & storages(second)
    after = first.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    # Repair was towards the source as it is.
    raw = decompose.apply(further, first)
    error, raw_error = (decompose.compare(first, m, inputs).output_error for m in (second, raw))
    assert error is not None
    assert raw_error is not None
    assert error < 0.8 * raw_error


def storages(model: nn.Module) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}


def test_factors_in_another_form_are_split_before(small: nn.Module) -> None:
    model = smooth()
    merged = decompose.apply(Plan({"2": Choice("pw_dw", 2)}, forms={"2": "merged"}), model)
    plan = Plan({"2": Choice("factors", 4, (Choice("svd", 5), None, None, None))})
    assert plan_of(decompose.apply(plan, merged)).layers["2"] == Choice(
        "pw_dw", 2, (Choice("svd", 5), None, None, None)
    )
    dense = decompose.apply(Plan({"2": Choice("pw_dw", 2)}, forms={"2": "dense"}), model)
    with pytest.raises(DecomposeError, match="layer 2: it is not decomposed yet"):
        decompose.apply(plan, dense)


def test_factors_that_are_not_there() -> None:
    model, first = factored()
    plan = Plan({"2": Choice("factors", 3, (None, None, Choice("pw_dw", 1)))})
    with pytest.raises(DecomposeError, match="layer 2: it is not decomposed yet"):
        decompose.apply(plan, model)
    with pytest.raises(DecomposeError, match="layer 2: spatial makes another number of factors"):
        decompose.apply(plan, first)


@pytest.mark.filterwarnings("ignore:left as truncated")
def test_repair_refits_what_changed_and_nothing_else(images: Tensor) -> None:
    _, first = factored()
    second = decompose.apply(Plan({"2": Choice("factors", 2, (Choice("pw_dw", 1), None))}), first)
    x = images.double()
    kept = second.get_submodule("4").state_dict()
    kept = {name: value.clone() for name, value in kept.items()}
    repairs = repair_(second, first, x)
    assert [layer.name for layer in repairs] == ["2"]
    assert repairs[0].after < repairs[0].before
    after = second.get_submodule("4").state_dict()
    assert all(torch.equal(after[name], value) for name, value in kept.items())
    assert plan_of(second).layers["2"] == Choice("spatial", 20, (Choice("pw_dw", 1), None))


def test_weights_of_factors_must_be_finite(small: nn.Module) -> None:
    _, first = factored()
    with torch.no_grad():
        next(first.get_submodule("4").parameters()).fill_(float("nan"))
    with pytest.raises(DecomposeError, match="layer 4: its weights are not finite"):
        decompose.plan(first, EXAMPLE.double(), macs=0.5)


def test_hooks_inside_are_seen() -> None:
    _, first = factored()
    next(first.get_submodule("4.body").children()).register_forward_hook(lambda *_: None)
    assert decompose.plan(first, EXAMPLE.double(), rank=1).dense["4"] == "it has hooks"
