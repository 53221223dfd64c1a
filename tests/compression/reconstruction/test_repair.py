"""Repair: inputs that were held out are never worse off."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import decompose
from decompose.compression.reconstruction import repair
from decompose.compression.reconstruction.joint_fit import FEWEST_INPUTS
from decompose.compression.reconstruction.repair import repair_, repair_table
from decompose.data.synthetic import synthetic_inputs
from decompose.evaluation.comparison import compare
from decompose.models.serialization import load, save
from decompose.utils.errors import DecomposeError
from tests.compression.test_statistics import Twice
from tests.support.strategies import Mixed

EXAMPLE = torch.zeros(1, 3, 24, 24)
FIT, HELD = (synthetic_inputs(EXAMPLE, num=12, seed=seed) for seed in (0, 7))


def error(model: nn.Module, small: nn.Module) -> float:
    found = compare(model, small, HELD).output_error
    assert found is not None
    return found


def folded() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())


def normed() -> nn.Sequential:
    layers = (nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(*layers, nn.Conv2d(16, 8, 3, bias=False), nn.BatchNorm2d(8))


NETWORKS = {"folded": folded, "normed": normed, "mixed": Mixed, "twice": Twice}


@pytest.mark.parametrize("method", ["pw_dw", "dw_pw", "spatial", "channel", "tucker"])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_brings_held_out_outputs_nearer(name: str, method: str) -> None:
    model = NETWORKS[name]().eval()
    plan = decompose.plan(model, EXAMPLE, method=method, rank=1)
    if not plan.layers:
        pytest.skip("the method takes none of its layers")
    small = decompose.apply(plan, model)
    truncated = error(model, small)
    names = set(small.state_dict())
    repairs = repair_(small, model, FIT)
    assert names <= set(small.state_dict())
    assert {repair.name for repair in repairs} == set(plan.layers)
    assert all(repair.after <= repair.before for repair in repairs)
    assert error(model, small) < truncated * 1.001
    assert repair_table(repairs).rows[0][0] in plan.layers


def test_repaired_layers_keep_their_plan_and_precision(tmp_path) -> None:
    model = folded().to(torch.bfloat16)
    plan = decompose.plan(model, EXAMPLE.bfloat16(), method="spatial", rank=4)
    small = decompose.apply(plan, model, calibrate=FIT)
    assert {tensor.dtype for tensor in small.state_dict().values()} == {torch.bfloat16}
    save(small, tmp_path / "small.safetensors")
    again = load(tmp_path / "small.safetensors", model)
    x = HELD[:1].bfloat16()
    assert torch.equal(again(x), small(x))


def test_a_layer_without_bias_gets_one_and_keeps_it_in_its_file(tmp_path) -> None:
    model = normed().eval()
    for norm in (model[1], model[4]):
        norm.running_mean.add_(0.3)  # type: ignore[union-attr, operator]
    plan = decompose.plan(model, EXAMPLE, method="spatial", rank=2)
    small = decompose.apply(plan, model, calibrate=FIT)
    leaves = [m for m in small.modules() if isinstance(m, nn.Conv2d)]
    assert any(leaf.bias is not None and leaf.bias.requires_grad for leaf in leaves)
    save(small, tmp_path / "small.safetensors")
    assert torch.equal(load(tmp_path / "small.safetensors", model)(HELD), small(HELD))


def test_what_is_exact_is_left_alone() -> None:
    model = folded()
    plan = decompose.plan(model, EXAMPLE, method="pw_dw", rank={"0": 3, "2": 2})
    truncated, small = decompose.apply(plan, model), decompose.apply(plan, model)
    assert [repair.name for repair in repair_(small, model, FIT)] == ["2"]
    for name, tensor in truncated.state_dict().items():
        assert torch.equal(tensor, small.state_dict()[name]) == name.startswith("0.")


def test_more_inputs_take_no_more_memory_and_may_come_from_a_loader() -> None:
    model = folded()
    plan = decompose.plan(model, EXAMPLE, rank=1)
    a, b = (decompose.apply(plan, model) for _ in range(2))
    repair_(a, model, FIT)
    repair_(b, model, [(part, torch.zeros(len(part))) for part in FIT.split(5)])
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(x, y)


class Rewound:
    """Inputs that only one pass at a time can go through, as workers that persist give them."""

    def __init__(self) -> None:
        self.place = 0

    def __iter__(self) -> Iterator[Tensor]:
        """Begin anew, for whoever is under way as well."""
        self.place = 0
        while self.place < len(FIT):
            self.place += 4
            yield FIT[self.place - 4 : self.place]


def test_inputs_are_gone_through_once_at_a_time() -> None:
    model = folded()
    plan = decompose.plan(model, EXAMPLE, rank=1)
    a, b = (decompose.apply(plan, model) for _ in range(2))
    repair_(a, model, FIT)
    repair_(b, model, Rewound())
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize(("num", "expected"), [(2, 14), (12, 4), (16, 0), (31, 0), (32, 8)])
def test_synthetic_inputs_make_up_for_missing_ones(
    num: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, made = folded().eval(), []

    def counted(example: Tensor, *_: object, num: int, seed: int) -> Tensor:
        made.append(num)
        return synthetic_inputs(example, num=num, seed=seed)

    monkeypatch.setattr(repair, "synthetic_inputs", counted)
    small = decompose.apply(decompose.plan(model, EXAMPLE, rank=1), model)
    repair_(small, model, synthetic_inputs(EXAMPLE, num=num))
    assert sum(made) == expected


def test_one_input_is_too_few() -> None:
    model = folded()
    small = decompose.apply(decompose.plan(model, EXAMPLE, rank=1), model)
    with pytest.raises(DecomposeError, match="two inputs at least"):
        repair_(small, model, FIT[:1])
    whole = decompose.apply(decompose.plan(model, EXAMPLE, rank={"0": 3}), model)
    assert repair_(whole, model, FIT[:1]) == []


def test_the_real_network_comes_nearer(vgg16: nn.Module, images: Tensor) -> None:
    images = images[..., :96, :96]
    plan = decompose.plan(vgg16, images[:1], method="spatial", ratio=3)
    small = decompose.apply(plan, vgg16)
    before = compare(vgg16, small, images[8:]).output_error
    repair_(small, vgg16, images[:8])
    after = compare(vgg16, small, images[8:]).output_error
    assert before is not None
    assert after is not None
    assert after < 0.9 * before


@pytest.mark.parametrize(("num", "together"), [(FEWEST_INPUTS - 1, False), (FEWEST_INPUTS, True)])
def test_all_factors_are_fitted_together_on_many_inputs(num: int, together: bool) -> None:
    torch.manual_seed(0)
    model = Mixed().eval()
    x = torch.randn(num, 3, 16, 16)
    small = decompose.apply(decompose.plan(model, x[:1], rank=2), model)
    repairs = repair_(small, model, x)
    assert any("all factors" in repair.how for repair in repairs) == together
