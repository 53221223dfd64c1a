"""The VGG-style network that is trained here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

NUM_CLASSES = 10


def vgg_style(widths: Sequence[int], depths: Sequence[int]) -> nn.Module:
    """Stages of 3×3 convolutions with BatchNorm and ReLU, a pooling behind each, and a classifier.

    Args:
        widths: channels of each stage.
        depths: convolutions of each stage.

    Returns:
        A network from ``(batch, 3, H, W)`` to ``(batch, 10)``, its weights from torch's generator.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        for index in range(1, depth + 1):
            place = f"{stage}_{index}"
            layers[f"conv{place}"] = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            layers[f"norm{place}"] = nn.BatchNorm2d(width)
            layers[f"relu{place}"] = nn.ReLU()
            channels = width
        is_last = stage == len(widths)
        layers[f"pool{stage}"] = nn.AdaptiveAvgPool2d(1) if is_last else nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["classify"] = nn.Linear(channels, NUM_CLASSES)
    # Trains faster on a CPU with the channels last.
    return nn.Sequential(layers).to(memory_format=torch.channels_last)
