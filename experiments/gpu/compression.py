"""Time and memory of planning and repairing, in forward passes of the original."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import decompose
from decompose.algebra import Deviation
from decompose.inference.engines import get_engine
from decompose.inference.timing import time_in_turns
from decompose.layers.forward import outputs

Value = TypeVar("Value")


def compress(
    model: nn.Module, example: Tensor, num_images: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Plan half the MACs of a model and repair it, both on the device where it lies.

    Args:
        model: in evaluation mode.
        example: ``(1, 3, H, W)``, zeros.
        num_images: synthetic images to calibrate on; half as many are held out.

    Returns:
        The smaller model, and the figures.
    """
    device = example.device
    images = decompose.synthetic_inputs(example, model, num=num_images, seed=0).to(device)
    held_out = decompose.synthetic_inputs(example, model, num=num_images // 2, seed=7).to(device)
    pass_ms = forward_ms(model, images[:1])
    before = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    plan, plan_seconds = timed(
        lambda: decompose.plan(model, example, macs=0.5, calibrate=images), device
    )
    small, repair_seconds = timed(lambda: decompose.apply(plan, model, calibrate=images), device)
    figures: dict[str, Any] = {
        "pass_ms": pass_ms,
        "plan_seconds": plan_seconds,
        "repair_seconds": repair_seconds,
        "num_layers": len(plan.layers),
    }
    if device.type == "cuda":
        figures["peak_bytes"] = torch.cuda.max_memory_allocated(device) - before
    kept, wanted = outputs(small, held_out), outputs(model, held_out)
    figures["output_error"] = Deviation.between(kept, wanted).relative
    return small, figures


def forward_ms(model: nn.Module, x: Tensor) -> float:
    """Median milliseconds of one forward pass in eager torch."""
    call = get_engine("eager").prepare(model, x, torch.get_num_threads())
    timing = time_in_turns({"": call}, range(5), torch.get_num_threads(), device=x.device)
    return timing[""].median_ms


def timed(work: Callable[[], Value], device: torch.device) -> tuple[Value, float]:
    """Do some work once; its result, and seconds until the device has finished it."""
    started = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - started
