"""Layers whose outputs are averaged over all positions."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

import decompose
from decompose import Choice, Plan
from decompose.layers.global_pooling import averaged_as, find_averaged
from decompose.layers.survey import survey
from tests.support.averaged_head import EXAMPLE, averaged_head


class Head(nn.Module):
    """A layer, and what reads its output."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.layer = nn.Conv2d(4, 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Scores, or a map."""
        y = self.layer(x)
        if self.kind == "method":
            return y.relu().mean((2, 3))
        if self.kind == "kept axes":
            return nn.functional.silu(y).mean((-2, -1), keepdim=True)
        if self.kind == "rows alone":
            return y.mean(2)
        if self.kind == "smaller map":
            return nn.functional.adaptive_avg_pool2d(y, 2)
        if self.kind == "largest":
            return nn.functional.adaptive_max_pool2d(y, 1)
        if self.kind == "gate":
            return y * y.mean((2, 3), keepdim=True).sigmoid()
        if self.kind == "over channels":
            return y.softmax(1).mean((2, 3))
        if self.kind == "normalised":
            return self.norm(y).mean((2, 3))
        if self.kind == "twice":
            return y.relu().mean((2, 3)) + y.sigmoid().mean((2, 3))
        return y


@pytest.mark.parametrize(
    ("kind", "is_averaged"),
    [
        ("method", True),
        ("kept axes", True),
        ("twice", True),
        ("rows alone", False),
        ("smaller map", False),
        ("largest", False),
        ("gate", False),
        ("over channels", False),
        ("normalised", False),
        ("map", False),
    ],
)
def test_every_reader_must_lead_to_the_mean_over_all_positions(
    kind: str, is_averaged: bool
) -> None:
    found = find_averaged(survey(Head(kind), EXAMPLE))
    assert found == ({"layer"} if is_averaged else set())


def test_a_single_position_is_no_map() -> None:
    assert not find_averaged(survey(Head("method"), EXAMPLE[..., :1, :1]))


def test_published_networks() -> None:
    x = torch.rand(1, 3, 64, 64)
    for model, averaged in (
        (torchvision.models.squeezenet1_1(), {"classifier.1"}),
        (torchvision.models.resnet18(), set()),
    ):
        assert find_averaged(survey(model.eval(), x)) == averaged


def test_the_originals_output_is_averaged_as_a_layer_pools() -> None:
    model = averaged_head()
    small = decompose.apply(Plan({"3": Choice("pool", 1)}), model)
    y = torch.randn(2, 10, 5, 5)
    assert averaged_as(small.get_submodule("3"), y).shape == (2, 10, 1, 1)
    assert averaged_as(model[3], y) is y
