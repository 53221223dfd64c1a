"""Which layer alone reads another's output."""

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import decompose
from decompose.layers.dependencies import (
    Dependency,
    HiddenChannels,
    find_dependencies,
    find_hidden_channels,
)
from decompose.layers.survey import survey
from decompose.models.vgg16 import vgg16_features
from tests.support.inverted_bottleneck import EXAMPLE, InvertedBottleneck
from tests.support.strategies import Mixed

X = torch.zeros(1, 3, 32, 32)


def found(model: nn.Module, x: Tensor = X) -> dict[str, Dependency]:
    return find_dependencies(survey(model, x))


def test_a_plain_model_is_a_row_of_them() -> None:
    dependencies = found(vgg16_features())
    assert len(dependencies) == 12
    assert dependencies["conv1_2"] == Dependency("conv1_1", "conv1_2")
    assert dependencies["conv2_1"] == Dependency("conv1_2", "conv2_1")


def test_a_residual_model_has_them_inside_its_blocks() -> None:
    dependencies = found(torchvision.models.resnet18(weights=None))
    assert len(dependencies) == 8
    assert dependencies["layer1.0.conv2"] == Dependency(
        "layer1.0.conv1", "layer1.0.conv2", ("layer1.0.bn1",)
    )
    producers = {dependency.producer for dependency in dependencies.values()}
    assert "conv1" not in producers
    assert not any("downsample" in name for name in dependencies)


def test_what_is_used_twice_or_added_has_none() -> None:
    assert set(found(Mixed())) == {"pointwise", "grouped"}


def test_decomposed_layers_take_part() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    small = decompose.apply(decompose.plan(model, X, rank=1), model)
    assert found(small) == {"2": Dependency("0", "2")}


def test_pooling_of_every_dimension_keeps_channels_apart() -> None:
    for n in (1, 2, 3):
        conv, norm = getattr(nn, f"Conv{n}d"), getattr(nn, f"BatchNorm{n}d")
        kinds = (f"MaxPool{n}d", f"AvgPool{n}d", f"AdaptiveAvgPool{n}d", f"AdaptiveMaxPool{n}d")
        for kind in kinds:
            pool = getattr(nn, kind)(1 if "Adaptive" in kind else 2)
            layers = conv(3, 4, 1), norm(4), nn.GELU(), nn.Dropout(), pool, conv(4, 5, 1)
            expected = {} if kind.startswith("AdaptiveMax") else {"5": Dependency("0", "5", ("1",))}
            assert found(nn.Sequential(*layers), torch.zeros(1, 3, *(8,) * n)) == expected, kind


class Mixing(nn.Module):
    """Two layers with an operator between."""

    def __init__(self, operator: object) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 3, H, W)`` to ``(batch, 4, H, W)``."""
        return self.second(self.operator(self.first(x)))  # type: ignore[operator]


def test_what_mixes_channels_or_reads_another_tensor_ends_one() -> None:
    assert found(Mixing(F.relu)) == {"second": Dependency("first", "second")}
    for operator in (
        lambda y: y.flip(1),
        lambda y: y.softmax(1),
        lambda y: y + y.relu(),
        lambda y: y.mean(1, keepdim=True).expand_as(y),
        lambda y: F.batch_norm(y, torch.zeros(4), torch.ones(4)),
        nn.BatchNorm2d(4, track_running_stats=False),
    ):
        assert found(Mixing(operator)) == {}


def test_a_model_that_decides_as_it_runs_has_those_of_its_example() -> None:
    def decide(y: Tensor) -> Tensor:
        return F.relu(y) if y.shape[2] > 1 else y.flip(1)

    assert set(found(Mixing(decide))) == {"second"}


def hidden(model: nn.Module, x: Tensor = X) -> dict[str, HiddenChannels]:
    return find_hidden_channels(survey(model, x))


def test_hidden_channels_lie_around_a_depthwise_layer() -> None:
    channels = hidden(InvertedBottleneck(), EXAMPLE)
    assert list(channels) == ["project"]
    assert channels["project"].writers == ("depthwise", "expand", "bn2", "bn1")
    assert not hidden(torchvision.models.resnet18(weights=None))


def test_every_block_of_mobilenets_has_them_but_those_that_are_squeezed() -> None:
    assert len(hidden(torchvision.models.mobilenet_v2(weights=None))) == 17
    assert len(hidden(torchvision.models.mobilenet_v3_small(weights=None))) == 2


def test_layers_that_a_user_skips_or_hooks_keep_their_channels() -> None:
    model = InvertedBottleneck()
    assert not find_hidden_channels(survey(model, EXAMPLE, skip=["depthwise"]))
    model.expand.register_forward_hook(lambda *_: None)
    assert not hidden(model, EXAMPLE)
    model = InvertedBottleneck()
    nn.utils.parametrizations.weight_norm(model.depthwise)
    assert not hidden(model, EXAMPLE)


def test_a_decomposed_layer_keeps_its_channels() -> None:
    model = InvertedBottleneck()
    plan = decompose.plan(model, EXAMPLE, method="svd", rank={"expand": 3})
    assert not hidden(decompose.apply(plan, model), EXAMPLE)
