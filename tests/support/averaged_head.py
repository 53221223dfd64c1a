"""A classifier whose scores are computed at every position, and averaged behind an activation."""

from __future__ import annotations

import torch
from torch import nn

EXAMPLE = torch.zeros(1, 4, 12, 12)


def averaged_head(activation: nn.Module | None = None) -> nn.Sequential:
    """Two convolutions, the second of which, ``3``, SqueezeNet and MobileNet v3 would average.

    Args:
        activation: behind the second; none where it is ``None``, and pooling before it is exact.
    """
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 12, 3, padding=1),
        nn.ReLU(),
        nn.Dropout(),
        nn.Conv2d(12, 10, 1),
        *([] if activation is None else [activation]),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()
