"""Models with fewer channels are modules like any other, decomposed or not."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import decompose
from decompose.compression.layerwise.pipeline import LayerSpec, compress_layerwise
from decompose.compression.layerwise.sampling import Sampler
from decompose.layers.channel_pruning import kept_channels, put_
from decompose.layers.costs import count_macs, trace_shapes
from decompose.layers.forward import evaluating
from tests.support.strategies import Mixed

X = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SPECS = {
    "pruned": {"4": LayerSpec(num_inputs=7), "6": LayerSpec(num_inputs=5)},
    "and decomposed": {
        "0": LayerSpec(channel=4),
        "4": LayerSpec(num_inputs=7, spatial=9, channel=5, energy=0.9),
        "6": LayerSpec(num_inputs=5, energy=0.9),
    },
}


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 10, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(10, 6, 3),
    )
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.bias.data.normal_()
    norm.running_mean = torch.randn(12)
    return model.eval()


def pruned(model: nn.Module, specs: dict[str, LayerSpec]) -> nn.Module:
    return compress_layerwise(specs, model, Sampler(model, X, list(specs)))


def masked(small: nn.Module) -> nn.Module:
    """The same model with all its channels, zero where none are read."""
    whole = make_model()
    for name in ("0", "4", "6"):
        layer, module = small.get_submodule(name), whole.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        assert isinstance(module, nn.Conv2d)
        inputs, outputs = kept_channels(layer)
        rows = torch.arange(module.out_channels) if outputs is None else outputs
        columns = torch.arange(module.in_channels) if inputs is None else inputs
        module.weight.data.zero_()
        module.weight.data[rows.unsqueeze(1), columns] = layer.weight.data
        assert module.bias is not None
        assert layer.bias is not None
        module.bias.data[rows] = layer.bias.data
    return whole


def test_a_pruned_model_is_the_one_whose_kernels_are_masked() -> None:
    small = pruned(make_model(), SPECS["pruned"])
    with evaluating(small):
        torch.testing.assert_close(small(X), masked(small)(X), atol=1e-5, rtol=1e-5)
    assert [m.weight.shape[:2] for m in small.modules() if isinstance(m, nn.Conv2d)] == [
        (7, 3),
        (5, 7),
        (6, 5),
    ]


@pytest.mark.parametrize("name", SPECS)
def test_the_macs_counted_are_those_executed(name: str) -> None:
    model = make_model()
    small = pruned(model, SPECS[name])
    counted = sum(count_macs(small, trace_shapes(model, X)).values())
    with evaluating(small), FlopCounterMode(display=False) as counter, torch.enable_grad():
        small(X[:1])
    assert counted == counter.get_total_flops() // 2
    compared = decompose.compare(model, small, X)
    assert compared.macs.after == counted
    assert compared.output_error is not None
    assert 0 < compared.output_error < 1
    assert all(layer.output_error is not None for layer in compared.layers)


def test_pruning_nothing_changes_nothing() -> None:
    model = make_model()
    small = pruned(model, {"4": LayerSpec(num_inputs=12), "6": LayerSpec(num_inputs=10)})
    with evaluating(small):
        torch.testing.assert_close(small(X), model(X), atol=1e-4, rtol=1e-4)
    assert decompose.compare(model, small, X).weight_error < 1e-6


def test_inputs_that_others_read_are_left_with_a_word() -> None:
    model = Mixed().eval()
    with pytest.warns(UserWarning, match=r"blocks\.1\.0: its inputs are not pruned"):
        small = pruned(model, {"blocks.1.0": LayerSpec(num_inputs=8)})
    x = torch.randn(1, 3, 16, 16)
    with evaluating(small):
        assert torch.equal(small(x), model(x))


def test_a_module_is_replaced_wherever_it_stands() -> None:
    shared = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(shared, nn.Sequential(shared))
    put_(model, "0", nn.Identity())
    x: Tensor = torch.randn(1, 3, 4, 4)
    assert torch.equal(model(x), x)
