"""tensorly-torch's Tucker convolutions in the place of ours, at the same ranks."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from decompose.algebra import leaves
from decompose.layers.forward import evaluating
from decompose.layers.modules import to_conv
from decompose.models.plans import Plan
from decompose.utils.errors import DecomposeError
from decompose.utils.progress import track

_ITERATIONS = 5
"""Of the higher-order orthogonal iteration, as in our own method."""


def tensorly_torch(plan: Plan, network: nn.Module) -> nn.Module:
    """Replace the layers of a Tucker-2 plan by tensorly-torch's ``FactorizedConv``.

    Args:
        plan: with the method ``tucker`` alone.
        network: left as it was.

    Raises:
        DecomposeError: tensorly-torch is not installed.
    """
    try:
        from tltorch import FactorizedConv
    except ImportError:
        raise DecomposeError(
            "the comparison needs tensorly-torch: pip install tensorly-torch"
        ) from None
    small = copy.deepcopy(network)
    for name, choice in track(plan.layers.items(), "tensorly-torch", total=len(plan.layers)):
        parent, _, attribute = name.rpartition(".")
        conv = network.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        reading, core, _ = leaves(choice.rewrite(to_conv(conv).without_weights()))
        rank: Any = (core.out_channels, reading.out_channels, *core.kernel_size)
        factorized = FactorizedConv.from_conv(
            conv,
            factorization="tucker",
            rank=rank,
            implementation="factorized",
            decomposition_kwargs={"n_iter_max": _ITERATIONS},
        )
        setattr(small.get_submodule(parent), attribute, factorized)
    return small


def executed_macs(network: nn.Module, x: Tensor) -> int:
    """MACs that a network's convolutions execute for one input ``(1, ...)``."""
    # With gradients, since without them layers may run in strips, which overlap.
    with evaluating(network), FlopCounterMode(display=False) as counter, torch.enable_grad():
        network(x)
    return counter.get_total_flops() // 2
