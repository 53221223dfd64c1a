"""Finding layers, seeing their inputs, counting their cost."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

import decompose
from decompose.layers.costs import count_macs, count_params, trace_shapes
from decompose.layers.discovery import find_decomposable, find_decomposed, find_layers, find_lossy
from decompose.layers.eligibility import why_not_decomposable
from decompose.layers.forward import evaluating
from decompose.methods import METHODS
from decompose.utils.errors import DecomposeError
from tests.support.strategies import Mixed

NETWORKS = {
    "mixed": lambda: Mixed(),
    "resnet18": lambda: torchvision.models.resnet18(),
    "mobilenet": lambda: torchvision.models.mobilenet_v3_small(),
    "regnet": lambda: torchvision.models.regnet_y_400mf(),
    "squeezenet": lambda: torchvision.models.squeezenet1_1(),
}


@pytest.mark.parametrize("method", [name for name in METHODS if name != "cp"])
@pytest.mark.parametrize("name", NETWORKS)
def test_counted_macs_are_executed_macs(name: str, method: str) -> None:
    model = NETWORKS[name]().eval()
    x = torch.randn(1, 3, 64, 64)
    plan = decompose.plan(model, x, method=method, rank=2)
    assert plan.layers or name == "mobilenet" or method == "svd"
    for candidate in (model, decompose.apply(plan, model)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            candidate(x)
        macs = count_macs(candidate, trace_shapes(candidate, x))
        assert 2 * sum(macs.values()) == counter.get_total_flops()


def test_vgg16_costs_what_its_paper_says(vgg16: nn.Module) -> None:
    shapes = trace_shapes(vgg16, torch.zeros(1, 3, 224, 224))
    assert sum(count_macs(vgg16, shapes).values()) == 15_346_630_656
    assert count_params(vgg16) == 14_714_688


def test_layers_are_found_wherever_they_sit_and_once() -> None:
    found = find_layers(Mixed())
    assert list(found) == [
        "stem", "blocks.0.0", "blocks.1.0", "heads.mask", "depthwise", "pointwise", "grouped",
        "classifier",
    ]  # fmt: skip
    assert list(find_decomposable(Mixed())) == list(found)


def test_every_call_of_a_shared_layer_is_seen() -> None:
    shapes = trace_shapes(Mixed(), torch.zeros(2, 3, 32, 32))
    assert shapes["stem"] == [(1, 3, 32, 32)]
    assert shapes["blocks.0.0"] == [(1, 16, 16, 16)] * 2


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = Mixed().train()
    model.blocks[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trace_shapes(model, torch.randn(4, 3, 32, 32))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not model.blocks[0].training
    assert not model.stem._forward_hooks


def test_an_input_that_does_not_fit_is_named() -> None:
    with pytest.raises(DecomposeError, match=r"shape \(1, 4, 32, 32\)"):
        trace_shapes(Mixed(), torch.zeros(1, 4, 32, 32))


def test_weights_that_are_not_finite_are_named() -> None:
    model = Mixed()
    with torch.no_grad():
        model.stem.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(DecomposeError, match="layer stem"):
        find_decomposable(model)


class OwnForward(nn.Conv2d):
    """Doubles its output."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``(batch, in_channels, H, W)`` to ``(batch, out_channels, H, W)``."""
        return super().forward(input) * 2


class Standardised(nn.Conv2d):
    """Takes the mean out of its weight, where ``forward`` does not show it."""

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None):
        return super()._conv_forward(input, weight - weight.mean(), bias)


def hooked(register: str) -> nn.Conv2d:
    module = nn.Conv2d(1, 1, 3)
    getattr(module, register)(lambda *_: None)
    return module


def test_what_cannot_be_swapped_is_told() -> None:
    assert why_not_decomposable(nn.Conv2d(1, 1, 3)) is None
    assert why_not_decomposable(nn.Linear(1, 1)) is None
    for kind in (OwnForward, Standardised):
        assert "own forward" in str(why_not_decomposable(kind(1, 1, 3)))
    for register in (
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ):
        assert why_not_decomposable(hooked(register)) == "it has hooks"
    watched = nn.Conv2d(1, 1, 3)
    watched.weight.register_hook(lambda gradient: gradient)
    assert why_not_decomposable(watched) == "it has hooks"
    replaced = nn.Conv2d(1, 1, 3)
    replaced.forward = lambda input: input
    assert why_not_decomposable(replaced) == "its forward was replaced"
    normed = nn.Conv2d(1, 1, 3)
    parametrizations.weight_norm(normed)
    assert "parametrised" in str(why_not_decomposable(normed))
    attention = nn.MultiheadAttention(4, 1)
    assert "others may look into" in str(why_not_decomposable(attention.out_proj))


def test_evaluating_restores_each_mode_after_an_error() -> None:
    model = Mixed().train()
    model.norm.eval()
    with evaluating(model):
        assert not model.training
        assert not torch.is_grad_enabled()
    with pytest.raises(TypeError), evaluating(model):
        model(None)
    assert model.training
    assert not model.norm.training


def low_rank(dtype: torch.dtype) -> nn.Sequential:
    """A layer whose kernel has rank 4, and one of full rank."""
    model = nn.Sequential(nn.Conv2d(12, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    weight = (torch.randn(16, 4) @ torch.randn(4, 12 * 9)).reshape(16, 12, 3, 3)
    model[0].weight.data = weight
    return model.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_truncation_lost_nothing_of_is_exact_in_every_precision(dtype: torch.dtype) -> None:
    model = low_rank(dtype)
    example = torch.zeros(1, 12, 8, 8, dtype=dtype)
    plan = decompose.plan(model, example, method="channel", rank=4)
    small = decompose.apply(plan, model)
    assert list(find_decomposed(small)) == ["0", "2"]
    assert list(find_lossy(small, find_decomposable(model), ["2", "0"])) == ["2"]


def test_another_model_is_named_as_such() -> None:
    model = low_rank(torch.float32)
    plan = decompose.plan(model, torch.zeros(1, 12, 8, 8), method="channel", rank=4)
    small = decompose.apply(plan, model)
    other = nn.Sequential(nn.Conv2d(12, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3))
    with pytest.raises(DecomposeError, match="layer 0 was not made from the original's"):
        find_lossy(small, find_decomposable(other), ["0"])
    assert not find_lossy(small, find_decomposable(small), ["0"])
