"""Expressions as modules and back."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from torch import nn

import decompose
from decompose import Choice
from decompose.algebra import Chain, Conv, Geometry, Sum, run
from decompose.layers.costs import layer_macs
from decompose.layers.modules import (
    CONVOLUTIONS,
    Branches,
    Decomposable,
    DecomposedLayer,
    to_conv,
    to_expression,
    to_module,
)
from decompose.methods import METHODS
from decompose.methods.pooling import pooled
from decompose.utils.errors import DecomposeError
from tests.support.strategies import Case, Mixed, conv_cases


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(conv_cases())
def test_a_module_read_and_built_again_is_the_same(case: Case) -> None:
    module, x = case
    again = to_module(to_conv(module))
    assert type(again) is type(module)
    assert again.state_dict().keys() == module.state_dict().keys()
    torch.testing.assert_close(again(x), module(x))


def test_an_expression_becomes_plain_modules() -> None:
    a, b = Conv(torch.randn(4, 3, 1)), Conv(torch.randn(2, 4, 1), torch.randn(2))
    module = to_module(Sum(Chain(a, b), Conv(torch.randn(2, 3, 1))))
    assert isinstance(module, Branches)
    assert isinstance(module[0], nn.Sequential)
    assert list(module.state_dict()) == ["0.0.weight", "0.1.weight", "0.1.bias", "1.weight"]
    x = torch.randn(1, 3, 5)
    torch.testing.assert_close(module(x), run(to_expression(module), x))


def test_parameters_share_the_expressions_memory() -> None:
    conv = Conv(torch.randn(4, 3, 1))
    module = to_module(conv)
    assert isinstance(module, nn.Conv1d)
    assert module.weight.data_ptr() == conv.weight.data_ptr()


def test_the_gradient_of_branches_is_exact() -> None:
    module = to_module(Sum(*(Conv(torch.randn(2, 3, 1, dtype=torch.float64)) for _ in range(3))))
    assert torch.autograd.gradcheck(
        module, torch.randn(2, 3, 4, dtype=torch.float64).requires_grad_()
    )


def test_padding_that_torch_has_no_module_for_is_refused() -> None:
    uneven = Conv(torch.randn(1, 1, 3), None, Geometry((2,), ((0, 1),), (1,)))
    with pytest.raises(DecomposeError, match="symmetric or 'same'"):
        to_module(uneven)


def test_only_convolutions_are_expressions() -> None:
    with pytest.raises(TypeError, match="ReLU"):
        to_expression(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()))


def test_a_decomposed_convolution_keeps_what_readers_look_at() -> None:
    original = nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=1, groups=2)
    layer = DecomposedLayer(original, METHODS["pw_dw"](to_conv(original), 2), Choice("pw_dw", 2))
    for attribute in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "groups"):
        assert getattr(layer, attribute) == getattr(original, attribute)


@given(conv_cases())
def test_a_decomposed_layer_shows_the_kernel_that_it_stands_for(case: Case) -> None:
    original, _ = case
    layer = DecomposedLayer(original, to_conv(original), Choice("svd", 1))
    torch.testing.assert_close(layer.weight, original.weight)
    assert (layer.bias is None) == (original.bias is None)


@pytest.mark.parametrize("method", ["pw_dw", "dw_pw", "spatial", "channel"])
@pytest.mark.parametrize(
    "original",
    [
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1),
    ],
    ids=["plain", "transposed"],
)
def test_the_kernel_shown_is_the_truncated_one(original: Decomposable, method: str) -> None:
    made = METHODS[method](to_conv(original), 1)
    layer = DecomposedLayer(original, made, Choice(method, 1))
    shown, x = copy.deepcopy(original), torch.randn(1, 4, 8, 8)
    assert layer.bias is not None
    shown.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
    torch.testing.assert_close(shown(x), layer(x))


def test_gradients_pass_the_kernel_shown() -> None:
    original = nn.Conv2d(4, 6, 3)
    layer = DecomposedLayer(original, METHODS["pw_dw"](to_conv(original), 2), Choice("pw_dw", 2))
    F.conv2d(torch.randn(1, 4, 8, 8), layer.weight, layer.bias).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize("method", ["channel", "cp", "dw_pw", "pw_dw", "spatial", "tucker"])
def test_training_through_the_composed_kernel_gives_the_same_gradients(method: str) -> None:
    original = nn.Conv2d(4, 6, 3, padding=1, stride=2).double()
    layer = DecomposedLayer(original, METHODS[method](to_conv(original), 1), Choice(method, 1))
    x, parts = torch.randn(2, 4, 9, 9, dtype=torch.float64), list(layer.parameters())
    outputs, gradients = list[torch.Tensor](), list[tuple[torch.Tensor, ...]]()
    for layer.trains_composed in (False, True):
        y = layer(x)
        outputs.append(y.detach())
        gradients.append(torch.autograd.grad(y.square().sum(), parts))
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_layer_that_trains_composed_still_runs_by_its_factors() -> None:
    original = nn.Conv2d(4, 6, 3)
    layer = DecomposedLayer(original, METHODS["pw_dw"](to_conv(original), 2), Choice("pw_dw", 2))
    layer.trains_composed = True
    calls = list[bool]()
    layer.body.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    x = torch.randn(1, 4, 8, 8)
    layer(x)
    with torch.no_grad():
        layer(x)
    assert calls == [False]


def test_a_layer_whose_parts_were_exchanged_shows_none() -> None:
    original = nn.Conv2d(4, 6, 3)
    layer = DecomposedLayer(
        original, METHODS["channel"](to_conv(original), 2), Choice("channel", 2)
    )
    layer.body = nn.Sequential(nn.Identity())
    assert not hasattr(layer, "weight")


def test_macs_of_layers_count_every_position() -> None:
    assert layer_macs(nn.Linear(5, 7), (2, 3, 5)) == 2 * 3 * 35
    assert layer_macs(nn.Conv2d(3, 4, 3, padding=1), (2, 3, 8, 8)) == 2 * 64 * 4 * 27
    assert layer_macs(nn.Conv2d(3, 4, 3, padding=1), (3, 8, 8)) == 64 * 4 * 27


def test_a_compiled_model_has_no_graph_breaks() -> None:
    model = Mixed().eval()
    x = torch.randn(2, 3, 32, 32)
    small = decompose.apply(decompose.plan(model, x, rank=2), model)
    with torch.no_grad():
        compiled = torch.compile(small, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), small(x))


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_a_convolution_of_the_mean_is_read_and_built_again(num_axes: int) -> None:
    conv = pooled(Conv(torch.randn(4, 3, *[1] * num_axes), torch.randn(4)))
    module = to_module(conv)
    assert isinstance(module, CONVOLUTIONS)
    assert list(module.state_dict()) == ["weight", "bias"]
    assert to_conv(module).geometry == conv.geometry
    x = torch.randn(2, 3, *range(4, 4 + num_axes))
    torch.testing.assert_close(module(x), run(conv, x))
    assert module(x).shape == (2, 4, *[1] * num_axes)
