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
    labels = torch.zeros(len(images), dtype=torch.int64)
    calls = {"original": _step(original, None, images, labels)}
    for name, network in small.items():
        calls[name] = _step(network, None, images, labels)
        calls[f"{name}, distilled"] = _step(network, original, images, labels)
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


def _step(
    network: nn.Module, teacher: nn.Module | None, images: Tensor, labels: Tensor
) -> PreparedModel:
    """A step of training: forward, backward, and the optimiser's."""
    student = copy.deepcopy(network).train()
    lesson = Objective(Recipe(), student, teacher, labelled=True)
    optimiser = SGD(student.parameters(), 1e-4, 0.9, nesterov=True)

    def step() -> None:
        loss, _ = lesson.loss(student, images, labels)
        (loss + lesson.penalty()).backward()
        optimiser.step()
        optimiser.zero_grad()

    return step
