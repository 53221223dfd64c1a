"""Running statistics become those of what is given, and nothing else changes."""

import torch
from torch import nn

from decompose.layers.norms import has_statistics, reestimate_


def test_statistics_are_the_average_over_batches() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3), nn.Dropout(0.5)).train()
    batches = [torch.randn(8, 3, 4, 4) * 3 + 5 for _ in range(3)]
    network(batches[0] * 100)
    reestimate_(network, batches)
    norm = network[0]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    means = torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    assert norm.momentum == 0.3
    assert network.training
    assert norm.training


def test_modes_and_weights_stay() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    weights = {name: value.clone() for name, value in network.named_parameters()}
    reestimate_(network, [torch.randn(4, 3, 2, 2)])
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(weights[name], value) for name, value in network.named_parameters())


def test_networks_without_them_are_left_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))
    assert not has_statistics(network)
    reestimate_(network, iter(()))
    assert has_statistics(nn.BatchNorm1d(2))
