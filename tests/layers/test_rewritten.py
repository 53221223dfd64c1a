"""Rewritten layers, and what of them is exact."""

import pytest
import torch
from torch import nn

import decompose
from decompose import DecomposeError
from decompose.layers.rewritten import find_inexact, find_rewritten


def low_rank(dtype: torch.dtype) -> nn.Sequential:
    """A layer whose kernel has rank 4, and one of full rank."""
    network = nn.Sequential(nn.Conv2d(12, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    weight = (torch.randn(16, 4) @ torch.randn(4, 12 * 9)).reshape(16, 12, 3, 3)
    network[0].weight.data = weight
    return network.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_truncation_lost_nothing_of_is_exact_in_every_precision(dtype: torch.dtype) -> None:
    network = low_rank(dtype)
    example = torch.zeros(1, 12, 8, 8, dtype=dtype)
    plan = decompose.plan(network, example, method="channel", rank=4)
    small = decompose.apply(plan, network)
    assert list(find_rewritten(small)) == ["0", "2"]
    assert list(find_inexact(small, network, ["2", "0"])) == ["2"]


def test_another_network_is_named_as_such() -> None:
    network = low_rank(torch.float32)
    plan = decompose.plan(network, torch.zeros(1, 12, 8, 8), method="channel", rank=4)
    small = decompose.apply(plan, network)
    other = nn.Sequential(nn.Conv2d(12, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3))
    with pytest.raises(DecomposeError, match="layer 0 was not made from the original's"):
        find_inexact(small, other, ["0"])
    with pytest.raises(DecomposeError, match="rewritten in the original"):
        find_inexact(small, small, ["0"])
