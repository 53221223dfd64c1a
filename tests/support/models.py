"""Small models with the traits that passes trip over."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Remembering(nn.Module):
    """Reads in its end what it kept in itself at its beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.kept = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """``(1, 3, H, W)`` to ``(1, 8, H', W')``."""
        self.kept = x.mean((2, 3), keepdim=True).mean(1, keepdim=True)
        middle = self.layers[1](self.layers[0](x)) + self.kept
        return self.layers[2](middle)


class Viewing(nn.Module):
    """Views its last map as rows, which maps laid out with the channels last do not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.classifier = nn.Linear(16 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 3, 8, 8)`` to ``(batch, 3)``."""
        x = self.second(self.first(x).relu()).relu()
        return self.classifier(x.view(len(x), -1))
