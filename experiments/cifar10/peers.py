"""Two peers under the same budget of MACs: uniform Tucker-2, and activation-aware SVD with a knapsack.

- ``uniform_tucker``: one compression ratio for all layers, the factors by tensorly-torch, as one would
  do it with the library alone.
- ``whitened_svd``: an own small implementation of the idea of BALF (arXiv 2509.25136). Each kernel, as a
  matrix W of outputs by patches, is truncated in the norm of what the layer sees: with S S^T the second
  moment of its patches over a few images, the best rank-r approximation of W S, times the inverse of S.
  A knapsack then picks one rank a layer: the sum over layers of the share of lost energy is the least
  within the budget. There is no repair.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import decompose
from decompose.layers.costs import count_macs, macs_of_calls, trace_shapes
from decompose.layers.forward import evaluating
from decompose.layers.modules import Decomposable, to_conv
from decompose.models.plans import Plan
from decompose.utils.errors import DecomposeError
from decompose.utils.progress import track
from experiments.budget.peer import tensorly_torch

_STEPS = 24
"""Bisections for the ratio that meets the budget."""

_HIGHEST_PRICE = 1e6
_BATCH = 32
_JITTER = 1e-6
"""Added to the second moment's eigenvalues, as a share of their mean."""


def uniform_tucker(network: nn.Module, example: Tensor, share: float) -> nn.Module:
    """Tucker-2 of all layers at one ratio, in tensorly-torch's layers.

    Args:
        network: left as it was.
        example: ``(1, 3, H, W)``.
        share: of the MACs to keep.
    """
    shapes = trace_shapes(network, example)
    macs = count_macs(network, shapes)

    def planned(ratio: float) -> Plan:
        return decompose.plan(network, example, method="tucker", ratio=ratio)

    def cost(plan: Plan) -> int:
        total = sum(macs.values())
        for name, choice in plan.layers.items():
            module = network.get_submodule(name)
            assert isinstance(module, Decomposable)
            conv = to_conv(module)
            rewritten = choice.rewrite(conv.without_weights())
            total += macs_of_calls(shapes[name], rewritten) - macs[name]
        return total

    low, high = 1.0, 2.0 / share**2
    for _ in range(_STEPS):
        middle = (low + high) / 2
        fits = cost(planned(middle)) <= share * sum(macs.values())
        low, high = (low, middle) if fits else (middle, high)
    return tensorly_torch(planned(high), network)


def whitened_svd(network: nn.Module, images: Tensor, share: float) -> nn.Module:
    """Truncate every convolution in its activations' norm, at ranks that a knapsack picks.

    Args:
        network: left as it was; convolutions of one group are truncated.
        images: unlabelled, ``(N, 3, H, W)``.
        share: of the MACs to keep.
    """
    convs = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1
    }
    macs = count_macs(network, trace_shapes(network, images[:1]))
    moments = _second_moments(network, convs, images)
    layers = {
        name: _Truncations.of(conv, moments[name], macs[name])
        for name, conv in track(convs.items(), "truncating", total=len(convs))
    }
    allowed = share * sum(macs.values()) - sum(macs[name] for name in macs if name not in convs)
    small = copy.deepcopy(network)
    for name, rank in _knapsack(layers, allowed).items():
        if rank < len(layers[name].costs) - 1:
            parent, _, attribute = name.rpartition(".")
            setattr(small.get_submodule(parent), attribute, layers[name].module(convs[name], rank))
    return small


@dataclass(frozen=True, eq=False)
class _Truncations:
    """One layer at every rank.

    Attributes:
        left: ``(O, R)``, orthonormal columns.
        right: ``(R, I k k)``; the product of both is the kernel.
        costs: MACs at rank 0, 1 ... and, last, of the dense layer, ``(K,)``.
        losses: share of the energy that is lost, ``(K,)``.
    """

    left: Tensor
    right: Tensor
    costs: Tensor
    losses: Tensor

    @classmethod
    def of(cls, conv: nn.Conv2d, moment: Tensor, macs: int) -> _Truncations:
        matrix = conv.weight.detach().double().flatten(1)
        values, vectors = torch.linalg.eigh(moment)
        scales = (values.clamp_min(0) + _JITTER * values.mean()).sqrt()
        left, singular, right = torch.linalg.svd(matrix @ (vectors * scales), full_matrices=False)
        right = singular.unsqueeze(1) * right @ (vectors / scales).T
        energy = singular.square()
        ranks = torch.arange(len(energy) + 1)
        costs = macs / matrix.numel() * sum(matrix.shape) * ranks
        lost = 1 - F.pad(energy.cumsum(0), (1, 0)) / energy.sum()
        cheaper = costs < macs
        dense = torch.tensor([float(macs)]), torch.zeros(1).double()
        return cls(
            left, right, torch.cat([costs[cheaper], dense[0]]), torch.cat([lost[cheaper], dense[1]])
        )

    def module(self, conv: nn.Conv2d, rank: int) -> nn.Sequential:
        """The layer at a rank of 1 or more, as two convolutions."""
        geometry: Any = conv.kernel_size, conv.stride, conv.padding, conv.dilation
        reading = nn.Conv2d(conv.in_channels, rank, *geometry, bias=False)
        writing = nn.Conv2d(rank, conv.out_channels, 1, bias=conv.bias is not None)
        with torch.no_grad():
            reading.weight.copy_(self.right[:rank].view_as(reading.weight))
            writing.weight.copy_(self.left[:, :rank].unsqueeze(-1).unsqueeze(-1))
            if conv.bias is not None and writing.bias is not None:
                writing.bias.copy_(conv.bias)
        return nn.Sequential(reading, writing).eval()


def _knapsack(layers: Mapping[str, _Truncations], allowed: float) -> dict[str, int]:
    """A rank a layer: the least sum of losses within a cost, by bisection of its price.

    At each price every layer has its best rank; what a price cannot reach, between two corners of the
    convex hull, is left.
    """
    low, high = 0.0, 1.0

    def picked(price: float) -> dict[str, int]:
        found = {}
        for name, layer in layers.items():
            total = layer.losses[1:] + price * layer.costs[1:] / allowed
            found[name] = 1 + int(total.argmin())
        return found

    def cost(ranks: Mapping[str, int]) -> float:
        return sum(float(layers[name].costs[rank]) for name, rank in ranks.items())

    while cost(picked(high)) > allowed:
        high *= 2
        if high > _HIGHEST_PRICE:
            raise DecomposeError("not even one rank a layer is within the budget")
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(picked(middle)) <= allowed else (middle, high)
    return picked(high)


def _second_moments(
    network: nn.Module, convs: Mapping[str, nn.Conv2d], images: Tensor
) -> dict[str, Tensor]:
    """Second moments of the patches that layers read, ``(I k k, I k k)`` float64 each."""
    moments = {name: torch.zeros(()).double() for name in convs}

    def seen(name: str, conv: nn.Conv2d, read: tuple[Tensor, ...]) -> None:
        (x,) = read
        geometry: Any = conv.kernel_size, conv.dilation, conv.padding, conv.stride
        rows = F.unfold(x, *geometry).transpose(0, 1).flatten(1)
        moments[name] = moments[name] + (rows @ rows.T).double()

    with evaluating(network), ExitStack() as hooks:
        for name, conv in convs.items():
            handle = conv.register_forward_pre_hook(partial(seen, name))
            hooks.callback(handle.remove)
        for batch in images.split(_BATCH):
            network(batch)
    return moments
