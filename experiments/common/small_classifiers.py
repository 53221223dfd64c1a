"""Train a small classifier, score it and count it: what the questions share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decompose.layers.costs import count_macs, count_params, trace_shapes
from decompose.layers.forward import evaluating

BATCH_SIZE = 128
PEAK_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4


def train_(network: nn.Module, inputs: Tensor, labels: Tensor, epochs: int) -> None:
    """Train a classifier in place, by gradient descent with momentum under a one-cycle rate.

    The order of the inputs comes from torch's generator: seed it before.

    Args:
        network: ``(batch, ...)`` to ``(batch, classes)``; left in evaluation mode.
        inputs: ``(N, ...)``.
        labels: classes, ``(N,)``, int64.
        epochs: how often it sees every input.
    """
    network.train()
    optimizer = torch.optim.SGD(
        network.parameters(), PEAK_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    steps = epochs * math.ceil(len(inputs) / BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(BATCH_SIZE):
            loss = F.cross_entropy(network(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()


def accuracy(network: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Share of inputs ``(N, ...)`` whose highest score is that of their class ``(N,)``."""
    with evaluating(network):
        scores = torch.cat([network(batch) for batch in inputs.split(BATCH_SIZE)])
    return float((scores.argmax(1) == labels).double().mean())


def costs(network: nn.Module, example: Tensor) -> dict[str, int]:
    """Parameters, and MACs for the first input of ``example``, ``(batch, ...)``."""
    macs = count_macs(network, trace_shapes(network, example))
    return {"params": count_params(network), "macs": sum(macs.values())}
