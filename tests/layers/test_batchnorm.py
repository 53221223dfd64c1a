"""BatchNorm folded into the layer before it."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

import decompose
from decompose.layers.batchnorm import (
    fold_batchnorm,
    fold_pairs,
    folded_of,
    has_statistics,
    reestimate_,
)
from decompose.utils.errors import DecomposeError

CASES = {
    "signal": (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), (5,)),
    "picture": (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), (5, 7)),
    "volume": (nn.Conv3d(4, 6, 3, groups=2), nn.BatchNorm3d(6, affine=False), (5, 4, 4)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6), (5, 5)),
    "frozen": (nn.Conv2d(4, 6, 1), torchvision.ops.FrozenBatchNorm2d(6), (3, 3)),
    "connected": (nn.Linear(4, 6), nn.BatchNorm1d(6), ()),
}


def lived_in(model: nn.Module) -> nn.Module:
    """The model with norms that do something."""
    for name, tensor in model.named_buffers():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2) if "var" in name else tensor.normal_()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.double().eval()


@pytest.mark.parametrize(("layer", "norm", "size"), CASES.values(), ids=CASES)
def test_it_is_exact(layer: nn.Module, norm: nn.Module, size: tuple[int, ...]) -> None:
    model = lived_in(nn.Sequential(layer, norm, nn.ReLU()))
    x = torch.randn(3, 4, *size, dtype=torch.float64)
    folded = fold_batchnorm(model, x)
    torch.testing.assert_close(folded(x), model(x))
    assert folded_of(folded) == {"0": "1"}
    assert folded_of(model) == {}
    assert isinstance(folded[1], nn.Identity)  # type: ignore[index]
    assert fold_pairs(folded, {"0": "1"}) is folded


class Forked(nn.Module):
    """One output read twice, one norm that reads two, and one that follows a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.forked, self.a, self.b, self.lone = (nn.Conv2d(4, 4, 1) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 4, H, W)`` to the same."""
        forked = self.forked(x)
        x = self.norms[0](forked) + forked
        x = self.norms[1](self.a(x)) + self.norms[1](self.b(x))
        return self.norms[3](self.lone(self.norms[2](x + 1)))


def test_only_what_stands_alone_is_folded() -> None:
    model, x = lived_in(Forked()), torch.randn(2, 4, 3, 3, dtype=torch.float64)
    folded = fold_batchnorm(model, x)
    assert folded_of(folded) == {"lone": "norms.3"}
    torch.testing.assert_close(folded(x), model(x))


@pytest.mark.parametrize("length", [12, 16])
def test_channels_along_another_axis_are_not_folded(length: int) -> None:
    pairs = nn.Linear(8, 16), nn.BatchNorm1d(length), nn.Flatten(), nn.Linear(length * 16, 5)
    model = lived_in(nn.Sequential(*pairs, nn.BatchNorm1d(5)))
    x = torch.randn(4, length, 8, dtype=torch.float64)
    folded = fold_batchnorm(model, x)
    assert folded_of(folded) == {"3": "4"}
    torch.testing.assert_close(folded(x), model(x))


class Watched(nn.Module):
    """Norms, and a layer, that others have to do with; one that is called by its argument's name."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(6))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(6))
        self.norms[1].register_forward_hook(lambda *_: _[-1] + 1)
        plain = self.norms[2].forward
        self.norms[2].forward = lambda x: plain(x) + 1  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 4, H, W)`` to the same."""
        for layer, norm in zip(self.layers[:4], self.norms[:4], strict=True):
            x = norm(layer(x))
        x = self.norms[4](self.layers[4](x)) + self.layers.get_parameter("4.weight").sum()
        x = self.norms[5](input=self.layers[5](x))
        return x + self.norms.get_parameter("3.weight").sum()


def test_what_others_watch_or_read_is_not_folded() -> None:
    model, x = lived_in(Watched()), torch.randn(2, 4, 3, 3, dtype=torch.float64)
    folded = fold_batchnorm(model, x)
    assert folded_of(folded) == {"layers.0": "norms.0"}
    torch.testing.assert_close(folded(x), model(x))


def test_timms_norm_leaves_its_rectifier() -> None:
    model = decompose.load("timm:test_byobnet,weights=none").double()
    x = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    reestimate_(model, [x])
    folded = fold_batchnorm(model, x)
    assert len(folded_of(folded)) > 5
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x))


def test_a_folded_model_goes_through_files(tmp_path: Path) -> None:
    model = decompose.load("torchvision:resnet18,weights=none,num_classes=3")
    x = torch.randn(2, 3, 48, 48)
    reestimate_(model, [x])
    folded = fold_batchnorm(model, x)
    assert len(folded_of(folded)) == 20
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    small = decompose.apply(decompose.plan(folded, x, method="pw_dw", rank=3), folded)
    decompose.save(small, tmp_path / "small.safetensors")
    again = decompose.load(tmp_path / "small.safetensors")
    with torch.no_grad():
        assert torch.equal(again(x), small(x))
    compared = decompose.compare(model, again, x)
    assert compared.weight_error == decompose.compare(folded, small, x).weight_error
    dense = decompose.compare(model, folded, x)
    assert dense.weight_error < 1e-9
    assert dense.output_error is not None
    assert dense.output_error < 1e-9


def test_what_cannot_be_folded() -> None:
    with pytest.raises(DecomposeError, match="no BatchNorm follows a layer alone"):
        fold_batchnorm(nn.Sequential(nn.Conv2d(3, 3, 1)), torch.zeros(1, 3, 2, 2))
    with pytest.raises(DecomposeError, match="bn1 cannot be folded into conv1: the model has no"):
        fold_pairs(nn.Sequential(nn.Conv2d(3, 3, 1)), {"conv1": "bn1"})


def test_statistics_are_the_average_over_batches() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3), nn.Dropout(0.5)).train()
    batches = [torch.randn(8, 3, 4, 4) * 3 + 5 for _ in range(3)]
    model(batches[0] * 100)
    reestimate_(model, batches)
    norm = model[0]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    means = torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    assert norm.momentum == 0.3
    assert model.training
    assert norm.training


def test_modes_and_weights_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    weights = {name: value.clone() for name, value in model.named_parameters()}
    reestimate_(model, [torch.randn(4, 3, 2, 2)])
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(weights[name], value) for name, value in model.named_parameters())


def test_models_without_them_are_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))
    assert not has_statistics(model)
    reestimate_(model, iter(()))
    assert has_statistics(nn.BatchNorm1d(2))


@pytest.mark.parametrize("method", ["spatial", "pw_dw"])
def test_it_is_exact_behind_decomposed_layers(method: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()).eval()
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean, norm.running_var = torch.randn(8), torch.rand(8) + 0.5
    norm.weight.data, norm.bias.data = torch.randn(8), torch.randn(8)
    x = torch.randn(2, 4, 9, 9)
    small = decompose.apply(decompose.plan(model, x, method=method, rank=2), model)
    folded = fold_batchnorm(small, x)
    assert isinstance(folded[1], nn.Identity)  # type: ignore[index]
    torch.testing.assert_close(folded(x), small(x), rtol=1e-4, atol=1e-5)
    assert folded_of(folded) == {"0": "1"}
    decompose.save(folded, tmp_path / "small.safetensors")
    again = decompose.load(tmp_path / "small.safetensors", model)
    assert torch.equal(again(x), folded(x))


def test_an_example_that_the_model_does_not_take_is_one_line() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 9), nn.BatchNorm2d(4)).eval()
    with pytest.raises(DecomposeError, match="does not take an input of shape"):
        fold_batchnorm(model, torch.zeros(1, 3, 8, 8))


def test_weights_that_would_leave_the_range_are_not_folded() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    nn.init.constant_(norm.running_var, 1e-7)
    nn.init.constant_(norm.weight, 300.0)
    norm.eps = 1e-12
    folded = fold_batchnorm(model, torch.zeros(1, 3, 8, 8))
    assert torch.isfinite(folded(torch.rand(1, 3, 8, 8))).all()
    with pytest.raises(
        DecomposeError, match=r"1 cannot be folded into 0: .* range of torch.float16"
    ):
        fold_batchnorm(model.half(), torch.zeros(1, 3, 8, 8).half())


@pytest.mark.parametrize("method", ["pw_dw", "spatial"])
def test_a_scale_beyond_float16_is_folded_where_its_products_stay_in_it(method: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.constant_(norm.weight, 300.0)
    nn.init.constant_(norm.get_buffer("running_var"), 1e-5)
    x = torch.rand(1, 3, 8, 8) / 100
    plan = decompose.plan(model, x, method=method, rank=2)
    small = decompose.apply(plan, model)
    expected = fold_batchnorm(small, x)(x)
    folded = fold_batchnorm(small.half(), x.half())
    assert {weight.dtype for weight in folded.parameters()} == {torch.float16}
    torch.testing.assert_close(folded.float()(x), expected, rtol=0.02, atol=1.0)
