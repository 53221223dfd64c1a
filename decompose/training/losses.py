"""What training makes small, each a mean over pictures.

Since each is a mean, the losses of a batch's parts average to that of the batch, whether parts follow
one another or lie on several processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def distillation(scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """The divergence from another network's softened classes (Hinton et al. 2015, section 2).

        T^2 KL(softmax(wanted / T) || softmax(scores / T))

    T^2 keeps the size of the gradient as T grows.

    Args:
        scores: ``(batch, classes)``.
        wanted: the other network's, of the same shape.
        temperature: T.

    Returns:
        A scalar, in nats.
    """
    ours = F.log_softmax(scores.float() / temperature, 1)
    theirs = F.log_softmax(wanted.float() / temperature, 1)
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def relative_error(outputs: Tensor, wanted: Tensor) -> Tensor:
    """Squared error over the energy of what is wanted, picture by picture, and then their mean.

    Args:
        outputs: ``(batch, ...)``.
        wanted: of the same shape.

    Returns:
        A scalar; 1 where the outputs are zero.
    """
    outputs, wanted = outputs.flatten(1).float(), wanted.flatten(1).float()
    energies = wanted.square().sum(1)
    # A picture that leaves nothing to match counts by its squared error.
    energies = torch.where(energies > 0, energies, 1.0)
    return ((outputs - wanted).square().sum(1) / energies).mean()


def output_distance(outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """``distillation`` of class scores ``(batch, classes)``; of anything else its relative error."""
    if outputs.ndim == 2:
        return distillation(outputs, wanted, temperature)
    return relative_error(outputs, wanted)


def feature_distance(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Mean relative error over layers (as hints, Romero et al. 2015, but at layers of one shape)."""
    pairs = zip(outputs, wanted, strict=True)
    return torch.stack([relative_error(ours, theirs) for ours, theirs in pairs]).mean()
