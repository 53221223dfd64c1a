"""Signals of one sensor, made here: eight shapes of waves under noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LENGTH = 128
NOISE = 0.7

CLASSES = (
    "sine",
    "square",
    "sawtooth",
    "triangle",
    "rising chirp",
    "falling chirp",
    "two tones",
    "bursts",
)


def make_signals(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw signals of random frequency, phase and strength.

    Returns:
        ``(num, 1, LENGTH)``, and the classes by their places in ``CLASSES``, ``(num,)``.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(num, 1, generator=generator)

    labels = torch.randint(len(CLASSES), (num,), generator=generator)
    time = torch.linspace(0, 1, LENGTH).expand(num, LENGTH)
    cycles, start = uniform(4, 10), uniform(0, 1)
    turns = cycles * time + start
    sine = torch.sin(2 * math.pi * turns)
    sawtooth = 2 * (turns % 1) - 1
    # A chirp's frequency runs from half to one and a half of the others', or back.
    rising = torch.sin(2 * math.pi * (cycles * time * (0.5 + time / 2) + start))
    tone = torch.sin(2 * math.pi * uniform(1.4, 1.8) * turns)
    waves = torch.stack(
        [
            sine,
            sine.sign(),
            sawtooth,
            2 * sawtooth.abs() - 1,
            rising,
            rising.flip(1),
            (sine + tone) / math.sqrt(2),
            sine * (torch.sin(2 * math.pi * (2 * time + start)) > 0) * math.sqrt(2),
        ]
    )
    chosen = waves[labels, torch.arange(num)]
    # Alike in strength, so that only the shape differs.
    chosen = chosen / chosen.square().mean(1, keepdim=True).sqrt() * uniform(0.7, 1.3)
    noise = NOISE * torch.randn(num, LENGTH, generator=generator)
    return (chosen + noise).unsqueeze(1), labels
