"""What a step of training costs: the original and the smaller networks, taking turns in one process."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from decompose.inference.engines import PreparedModel
from decompose.inference.timing import time_in_turns
from decompose.layers.costs import count_macs, trace_shapes
from decompose.layers.discovery import find_decomposed
from decompose.training.objective import Objective
from decompose.training.recipe import Recipe
from decompose.utils.progress import track


def measure(
    original: nn.Module, small: Mapping[str, nn.Module], images: Tensor, num_rounds: int
) -> dict[str, Any]:
    """Time steps on labels, and with distillation.

    Args:
        original: the teacher.
        small: networks made from it, by name.
        images: of a step, ``(batch, 3, H, W)``.
        num_rounds: turns of each.

    Returns:
        The batch size and, by name, ms an image with their spread and MACs of a forward pass.
    """
    calls = {"original": training_step(original, None, images)}
    for name, network in small.items():
        calls[name] = training_step(network, None, images)
        calls[f"{name}, distilled"] = training_step(network, original, images)
    timed = time_in_turns(
        calls, track(range(num_rounds), "timing steps"), torch.get_num_threads(), calls_a_round=1
    )
    shapes = trace_shapes(original, images)
    macs = {
        name: sum(count_macs(network, shapes).values())
        for name, network in {"original": original, **small}.items()
    }
    return {
        "batch_size": len(images),
        "size": images.shape[-1],
        "steps": {
            name: {
                "ms": timing.median_ms / len(images),
                "spread_ms": timing.spread_ms / len(images),
                "macs": macs[name.removesuffix(", distilled")],
            }
            for name, timing in timed.items()
        },
    }


def training_step(
    network: nn.Module, teacher: nn.Module | None, images: Tensor, recipe: Recipe | None = None
) -> PreparedModel:
    """A step of training a copy: forward, backward, and the optimiser's.

    Args:
        network: to train.
        teacher: to learn from, beside labels.
        images: of a step, ``(batch, 3, H, W)``.
        recipe: of the loss, its factors and its precision.
    """
    recipe = recipe or Recipe()
    student = copy.deepcopy(network).train()
    for layer in find_decomposed(student).values():
        layer.trains_composed = recipe.compose_factors
    labels = torch.zeros(len(images), dtype=torch.int64)
    lesson = Objective(recipe, student, teacher, labelled=True)
    optimiser = SGD(student.parameters(), 1e-4, 0.9, nesterov=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss, _ = lesson.loss(student, images, labels)
        (loss + lesson.penalty()).backward()
        optimiser.step()
        optimiser.zero_grad()

    return step
