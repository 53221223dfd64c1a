"""Frobenius decay: balance factors before training, and decay the kernels that they compose to.

Decay of each factor by itself would pull at the product twice, and the stronger the less balanced they
are. What should stay small is the kernel that they compose to:

    loss + decay / 2 sum_layers |compose(layer)|^2

whose gradient is the decay of the kernel, handed down to the factors by the chain rule. For layers that are
not decomposed the optimiser's own decay does the same. Biases and normalisations have none (as in He et
al. 2019, arXiv 1812.01187, section 3.1).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from decompose.algebra import balanced, compose
from decompose.layers.discovery import find_decomposed, find_layers
from decompose.layers.modules import DECOMPOSABLE, to_expression
from decompose.utils.errors import DecomposeError


def balance_(model: nn.Module) -> None:
    """Balance the factors of every decomposed layer to equal norms, in place."""
    for layer in find_decomposed(model).values():
        layer.assign(balanced(layer.expression))


def composed_energy(model: nn.Module) -> Tensor:
    """Sum of squares of the kernels that decomposed layers compose to, a differentiable scalar.

    Its cost is that of one more pixel in each layer, or so; it does not grow with the batch.
    """
    kernels = (
        compose(to_expression(layer, differentiable=True)).weight
        for layer in find_decomposed(model).values()
    )
    return sum((kernel.float().square().sum() for kernel in kernels), torch.zeros(()))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups with the weight decay that an optimiser applies to them.

    Args:
        model: decomposed or not; parameters without ``requires_grad`` are left out.
        weight_decay: of the weights of layers that are not decomposed.

    Raises:
        DecomposeError: there is nothing to train.
    """
    dense = [layer for layer in find_layers(model).values() if isinstance(layer, DECOMPOSABLE)]
    weights = {id(layer.weight) for layer in dense}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise DecomposeError("no parameter of the model requires a gradient")
    groups = [
        {"params": [p for p in trained if id(p) in weights], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in weights], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
