"""A tiny model and tiny images to finetune it on, and what a run of it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

import decompose
from decompose.data.folders import labelled_folder
from decompose.data.images import ImageDataset
from decompose.training.finetuning import Finetuned, finetune
from decompose.training.recipe import Recipe

SIZE = 8

PLAIN = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
DRAWN = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(SIZE, padding=1), *PLAIN.transforms])

RECIPE = Recipe(epochs=2, batch_size=4, learning_rate=0.05, features=0.1, seconds_between=0.0)


class Tiny(nn.Module):
    """Two convolutions, with or without BatchNorm, and a classifier of three classes."""

    def __init__(self, *, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6) if norm else nn.Identity(),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, 3, padding=1, stride=2),
            nn.ReLU(inplace=True),
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 3, 8, 8)`` to ``(batch, 3)``."""
        return self.classifier(self.dropout(self.features(x).mean((2, 3))))


def models(**options: Any) -> tuple[nn.Module, nn.Module]:
    """A model and the one of two terms a layer made from it, always the same."""
    torch.manual_seed(1)
    original = Tiny(**options).eval()
    plan = decompose.plan(original, torch.zeros(1, 3, SIZE, SIZE), method="dw_pw", rank=2)
    assert len(plan.layers) == 2
    return original, decompose.apply(plan, original)


def make_images(folder: Path, num: int = 8) -> Path:
    """Three classes of noisy colours, ``num`` images of each."""
    rng = np.random.default_rng(0)
    for label in range(3):
        (folder / f"c{label}").mkdir(parents=True)
        for index in range(num):
            pixels = rng.integers(0, 120, (SIZE, SIZE, 3), dtype=np.uint8)
            pixels[..., label] += 100
            Image.fromarray(pixels).save(folder / f"c{label}" / f"{index}.png")
    return folder


def image_dataset(folder: Path) -> ImageDataset:
    """The images of ``make_images``."""
    return labelled_folder(folder, PLAIN)


def tuned(
    data: Path,
    *,
    recipe: Recipe = RECIPE,
    taught: bool = True,
    kind: Mapping[str, Any] | None = None,
    **options: Any,
) -> Finetuned:
    """Finetune the tiny model, of a kind, on the CPU."""
    original, small = models(**(kind or {}))
    options = {"device": "cpu", "augment": DRAWN, "teacher": original if taught else None} | options
    return finetune(small, image_dataset(data), recipe=recipe, **options)
