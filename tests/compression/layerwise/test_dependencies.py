"""Who reads what a layer writes."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import decompose
from decompose.compression.layerwise.dependencies import Dependency, find_dependencies
from decompose.models.vgg16 import vgg16_features
from decompose.utils.errors import DecomposeError
from tests.support.strategies import Mixed


def test_a_plain_network_is_a_row_of_them() -> None:
    found = find_dependencies(vgg16_features())
    assert len(found) == 12
    assert found["conv1_2"] == Dependency("conv1_1", "conv1_2")
    assert found["conv2_1"] == Dependency("conv1_2", "conv2_1")


def test_a_residual_network_has_them_inside_its_blocks() -> None:
    found = find_dependencies(torchvision.models.resnet18(weights=None))
    assert len(found) == 8
    assert found["layer1.0.conv2"] == Dependency(
        "layer1.0.conv1", "layer1.0.conv2", ("layer1.0.bn1",)
    )
    assert not any(link.producer == "conv1" or "downsample" in name for name, link in found.items())


def test_what_is_used_twice_or_added_has_none() -> None:
    assert set(find_dependencies(Mixed())) == {"pointwise", "grouped"}


def test_rewritten_layers_take_part() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    small = decompose.apply(decompose.plan(model, torch.zeros(1, 3, 9, 9), rank=1), model)
    assert find_dependencies(small) == {"2": Dependency("0", "2")}


def test_a_network_that_decides_as_it_runs_is_refused() -> None:
    class Deciding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x) if x.sum() > 0 else x

    with pytest.raises(DecomposeError, match="cannot be traced"):
        find_dependencies(Deciding())
