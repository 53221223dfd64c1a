"""Applying a plan to any module."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import decompose
from decompose import Choice, DecomposeError, Plan
from decompose.layers.discovery import find_layers
from decompose.layers.modules import DecomposedLayer, give_bias
from decompose.methods.pruning import PrunedChannels
from decompose.models.conversion import plan_of, rebuild, recomposed
from tests.support.averaged_head import averaged_head
from tests.support.figures import error_of
from tests.support.inverted_bottleneck import HIDDEN, InvertedBottleneck
from tests.support.strategies import Mixed

EXAMPLE = torch.randn(2, 3, 32, 32)
IMAGES = torch.randn(40, 4, 12, 12, generator=torch.Generator().manual_seed(0))


FULL_RANKS = {"stem": 3, "blocks.0.0": 9, "blocks.1.0": 9, "heads.mask": 16, "grouped": 9}
"""Every spatial convolution of ``Mixed``, at ranks at which PW+DW loses nothing."""


@pytest.mark.parametrize("mode", [True, False])
def test_at_full_rank_nothing_changes_but_the_layers(mode: bool) -> None:
    model, x = Mixed().double().train(mode), EXAMPLE.double()
    plan = decompose.plan(model, x, rank=FULL_RANKS)
    small = decompose.apply(plan, model)
    assert {name: choice.rank for name, choice in plan_of(small).layers.items()} == FULL_RANKS
    torch.testing.assert_close(small(x), copy.deepcopy(model)(x), rtol=1e-10, atol=1e-10)


def test_the_original_is_left_untouched() -> None:
    model = Mixed()
    before = pickle.dumps(model.state_dict())
    modules = list(model.modules())
    small = decompose.apply(decompose.plan(model, EXAMPLE, rank=2), model)
    for parameter in small.parameters():
        nn.init.zeros_(parameter)
    assert pickle.dumps(model.state_dict()) == before
    assert list(model.modules()) == modules


def test_a_module_used_twice_stays_one() -> None:
    small = decompose.apply(decompose.plan(Mixed(), EXAMPLE, rank=2), Mixed())
    assert small.get_submodule("blocks.0") is small.get_submodule("heads.edge")
    assert isinstance(small.get_submodule("heads.edge.0"), DecomposedLayer)


def test_mode_and_requires_grad_are_kept() -> None:
    model = Mixed()
    model.stem.requires_grad_(False)
    assert model.grouped.bias is not None
    model.grouped.bias.requires_grad_(False)
    model.blocks[1].eval()
    small = decompose.apply(decompose.plan(model, EXAMPLE, rank=2), model)
    assert not any(p.requires_grad for p in small.get_submodule("stem").parameters())
    assert {
        name.split(".")[-1]: p.requires_grad
        for name, p in small.get_submodule("grouped").named_parameters()
    } == {"weight": True, "bias": False}
    assert not small.get_submodule("blocks.1.0").training
    assert small.get_submodule("blocks.0.0").training


def test_dtype_and_memory_format_are_kept() -> None:
    model = Mixed().bfloat16().to(memory_format=torch.channels_last)
    small = decompose.apply(decompose.plan(model, EXAMPLE.bfloat16(), rank=2), model)
    for parameter in small.parameters():
        assert parameter.dtype == torch.bfloat16
        if parameter.ndim == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last)
    contiguous = decompose.apply(decompose.plan(Mixed(), EXAMPLE, rank=2), Mixed())
    assert all(parameter.is_contiguous() for parameter in contiguous.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_is_kept() -> None:
    model = Mixed().cuda()
    small = decompose.apply(decompose.plan(model, EXAMPLE.cuda(), rank=2), model)
    assert all(parameter.is_cuda for parameter in small.parameters())


@pytest.mark.parametrize("build", [torchvision.models.resnet18, torchvision.models.googlenet])
def test_real_architectures_convert(build) -> None:
    model = build(
        **({"init_weights": True} if build is torchvision.models.googlenet else {})
    ).eval()
    x = torch.randn(1, 3, 96, 96)
    small = decompose.apply(decompose.plan(model, x, rank=3), model)
    with torch.no_grad():
        assert small(x).shape == model(x).shape
    assert len(find_layers(small)) == len(find_layers(model))


def test_one_convolution_can_be_the_whole_network() -> None:
    conv = nn.Conv1d(4, 6, 5, padding=2)
    small = decompose.apply(decompose.plan(conv, torch.zeros(1, 4, 20), rank={"": 4}), conv)
    x = torch.randn(2, 4, 20)
    assert isinstance(small, DecomposedLayer)
    torch.testing.assert_close(small(x), conv(x), rtol=1e-4, atol=1e-5)


def test_a_rewritten_network_can_be_trained_and_compiled_away() -> None:
    model = Mixed()
    small = decompose.apply(decompose.plan(model, EXAMPLE, rank=2), model)
    optimizer = torch.optim.SGD(small.parameters(), lr=1e-3)
    before = small(EXAMPLE).square().sum()
    before.backward()
    optimizer.step()
    assert float(small(EXAMPLE).detach().square().sum()) != float(before.detach())
    exported = torch.export.export(copy.deepcopy(small).eval(), (EXAMPLE,)).module()
    torch.testing.assert_close(exported(EXAMPLE), small.eval()(EXAMPLE), rtol=1e-4, atol=1e-5)


def test_what_is_rewritten_already_is_not_rewritten_again() -> None:
    model = Mixed()
    small = decompose.apply(Plan({"stem": Choice("pw_dw", 1)}), model)
    plan = decompose.plan(small, EXAMPLE, rank=2)
    assert "stem" not in plan.layers
    assert set(plan_of(decompose.apply(plan, small)).layers) == {"stem", *plan.layers}


def test_rebuilding_needs_no_weights() -> None:
    model = Mixed()
    plan = decompose.plan(model, EXAMPLE, rank=2)
    skeleton = rebuild(plan, model)
    made = decompose.apply(plan, model)
    shapes = {name: value.shape for name, value in made.state_dict().items()}
    assert {name: value.shape for name, value in skeleton.state_dict().items()} == shapes
    assert all(p.is_meta for p in skeleton.get_submodule("grouped").parameters())


@pytest.mark.parametrize(
    ("name", "choice", "message"),
    [
        ("conv9", Choice("pw_dw", 1), "rewrites conv9, but no layer .* has that name"),
        ("stem", Choice("pw_dw", 4), "layer stem: rank 4 of pw_dw is out of bounds: it is 1 to 3"),
        ("stem", Choice("sdv", 1), "layer stem: no method is called 'sdv'"),
    ],
)
def test_plans_that_do_not_fit(name: str, choice: Choice, message: str) -> None:
    with pytest.raises(DecomposeError, match=message):
        decompose.apply(Plan({name: choice}), Mixed())


def test_layers_that_cannot_be_swapped_are_named() -> None:
    model = Mixed()
    model.stem.register_forward_hook(lambda *_: None)
    with pytest.raises(DecomposeError, match="layer stem cannot be rewritten: it has hooks"):
        decompose.apply(Plan({"stem": Choice("pw_dw", 1)}), model)


def test_factors_are_multiplied_back_into_the_original_architecture(tmp_path: Path) -> None:
    model = Mixed().eval()
    small = decompose.apply(decompose.plan(model, EXAMPLE, method="dw_pw", rank=1), model)
    *_, last = (
        leaf for leaf in small.get_submodule("stem").modules() if isinstance(leaf, nn.Conv2d)
    )
    give_bias(last)
    assert last.bias is not None
    nn.init.normal_(last.bias)
    dense = recomposed(small)
    torch.testing.assert_close(dense(EXAMPLE), small(EXAMPLE), rtol=1e-4, atol=1e-5)
    assert {name: type(layer) for name, layer in find_layers(dense).items()} == {
        name: type(layer) for name, layer in find_layers(model).items()
    }
    assert dense.get_submodule("heads.edge.0") is dense.get_submodule("blocks.0.0")
    decompose.save(dense, tmp_path / "dense.safetensors")
    again = decompose.load(tmp_path / "dense.safetensors", Mixed()).eval()
    assert torch.equal(again(EXAMPLE), dense(EXAMPLE))


def test_pruned_channels_go_through_a_file_and_are_decomposed_further(tmp_path: Path) -> None:
    model = InvertedBottleneck()
    images = IMAGES
    plan = decompose.plan(model, images[:1], macs=0.75, methods=["prune"], calibrate=images)
    small = decompose.apply(plan, model, calibrate=images)
    assert plan_of(small).layers == plan.layers
    assert model.expand.out_channels == HIDDEN
    path = tmp_path / "small.safetensors"
    decompose.save(small, path)
    loaded = decompose.load(path, model)
    assert torch.equal(loaded(images), small(images))
    compared = str(decompose.compare(model, loaded, images))
    assert compared == str(decompose.compare(model, small, images))

    further = decompose.plan(
        small, images[:1], macs=0.8, methods=["svd", "spatial"], calibrate=images
    )
    assert "expand" in further.layers
    smaller = decompose.apply(further, small, calibrate=images)
    assert plan_of(smaller).layers["project"].pruned == plan.layers["project"].pruned
    decompose.save(smaller, path)
    assert torch.equal(decompose.load(path, model)(images), smaller(images))
    at_once = decompose.apply(plan_of(smaller), model, calibrate=images)
    assert [p.shape for p in at_once.parameters()] == [p.shape for p in smaller.parameters()]
    assert error_of(model, at_once, IMAGES) < 2 * error_of(model, smaller, IMAGES) + 1e-6


def test_recomposed_pruned_channels_are_zeros() -> None:
    model = InvertedBottleneck()
    plan = decompose.plan(model, IMAGES[:1], macs=0.6, calibrate=IMAGES)
    assert plan.layers["project"].method == "prune"
    small = decompose.apply(plan, model, calibrate=IMAGES)
    further = decompose.plan(small, IMAGES[:1], method="svd", ratio=1.1)
    for made in (small, decompose.apply(further, small)):
        dense = recomposed(made)
        assert not plan_of(dense).layers
        sizes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
        assert {name: tuple(t.shape) for name, t in dense.state_dict().items()} == sizes
        torch.testing.assert_close(dense(IMAGES), made(IMAGES))


def test_writers_that_cannot_lose_channels_are_named() -> None:
    for writer, message in (
        ("depth", "depth cannot lose channels: .*no attribute"),
        ("head", "head cannot lose channels: a Linear"),
    ):
        choice = Choice("prune", 2, pruned=PrunedChannels((0, 3), HIDDEN, (writer,)))
        with pytest.raises(DecomposeError, match=message):
            decompose.apply(Plan({"project": choice}), InvertedBottleneck())


def test_a_pooled_layer_goes_through_files_and_back(tmp_path: Path) -> None:
    model = averaged_head(nn.ReLU())
    small = decompose.apply(Plan({"3": Choice("pool", 1)}), model)
    mean = model[:3](IMAGES).mean((2, 3), keepdim=True)
    torch.testing.assert_close(small(IMAGES), model[3:](mean))
    assert small.state_dict()["3.body.weight"].shape == model.state_dict()["3.weight"].shape

    decompose.save(small, tmp_path / "small.safetensors")
    loaded = decompose.load(tmp_path / "small.safetensors", averaged_head(nn.ReLU()))
    assert torch.equal(loaded(IMAGES), small(IMAGES))
    # What it gives is the mean of what the original gives.
    layer = decompose.compare(model, loaded, IMAGES).layers[-1]
    assert layer.name == "3"
    assert layer.output_error == pytest.approx(0, abs=1e-10)
    assert layer.weight_error == 0

    whole = recomposed(small)
    assert type(whole.get_submodule("3")) is nn.Conv2d
    assert torch.equal(whole(IMAGES), model(IMAGES))
