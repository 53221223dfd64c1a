"""Volumes made here: eight solids at random places under noise, as a scanner might see them."""

from __future__ import annotations

import torch
from torch import Tensor

SIZE = 16
NOISE = 0.5

CLASSES = (
    "ball",
    "hollow ball",
    "cube",
    "hollow cube",
    "rod",
    "plate",
    "ring",
    "two balls",
)


def make_volumes(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw solids of random place, size and orientation (along one of the three axes).

    Returns:
        ``(num, 1, SIZE, SIZE, SIZE)``, and the classes by their places in ``CLASSES``, ``(num,)``.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(CLASSES), (num,), generator=generator)
    volumes = torch.stack([_solid(int(label), generator) for label in labels])
    noise = NOISE * torch.randn(volumes.shape, generator=generator)
    return (volumes + noise).unsqueeze(1), labels


def _solid(label: int, generator: torch.Generator) -> Tensor:
    """One solid, ``(SIZE, SIZE, SIZE)``: 1 inside, 0 outside."""
    radius = 3.5 + 1.5 * float(torch.rand(1, generator=generator))
    room = SIZE / 2 - radius - 0.5
    centre = (2 * torch.rand(3, generator=generator) - 1) * room
    axis = torch.arange(SIZE) - (SIZE - 1) / 2
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))
    x, y, z = (grid - centre.view(3, 1, 1, 1))[torch.randperm(3, generator=generator)]
    away = (x**2 + y**2 + z**2).sqrt()
    farthest = torch.stack([x, y, z]).abs().amax(0)
    from_axis = (x**2 + y**2).sqrt()
    side = 0.8 * radius
    inside = [
        away < radius,
        (away < radius) & (away > radius - 1.8),
        farthest < side,
        (farthest < side) & (farthest > side - 1.5),
        (from_axis < 1.8) & (z.abs() < radius),
        (from_axis < radius) & (z.abs() < 1.2),
        ((from_axis - (radius - 1)) ** 2 + z**2).sqrt() < 1.4,
        torch.minimum(*(x**2 + y**2 + (z - side_of) ** 2 for side_of in (2.5, -2.5))) < 2.3**2,
    ]
    return inside[label].float()
