"""Results on the GPU against those on the CPU, and the Triton kernel against eager torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import decompose
from decompose.algebra import Deviation
from decompose.inference.engines import get_engine
from decompose.layers.forward import outputs
from experiments.gpu.models import build, uniform

ARCHITECTURE, SIZE = "torchvision:resnet18,weights=none,num_classes=10", 64

DTYPES = ("float32", "float16", "bfloat16")


def agreement(device: torch.device) -> dict[str, Any]:
    """Plan and repair one model on the CPU and on a device, and compare what comes out.

    Returns:
        Relative squared errors (sums of squared differences over sums of squares): of the repaired
        model's outputs between both devices (``repaired``), beside that of the repaired model from the
        original (``error``), and of the Triton kernel from eager torch by dtype; and the share of
        layers whose choice is the same (``same_choices``).
    """
    model, example = build(ARCHITECTURE, SIZE, torch.device("cpu"))
    images = decompose.synthetic_inputs(example, model, num=8, seed=0)
    held_out = decompose.synthetic_inputs(example, model, num=8, seed=7)
    plan = decompose.plan(model, example, macs=0.5, calibrate=images)
    here = decompose.apply(plan, model, calibrate=images)
    elsewhere, there = images.to(device), model.to(device)
    other_plan = decompose.plan(there, example.to(device), macs=0.5, calibrate=elsewhere)
    remote = decompose.apply(plan, there, calibrate=elsewhere)
    layers = plan.layers.keys() | other_plan.layers.keys()
    same = sum(plan.layers.get(name) == other_plan.layers.get(name) for name in layers)
    wanted = outputs(here, held_out)
    given = outputs(remote, held_out.to(device)).cpu()
    original = outputs(model.cpu(), held_out)
    return {
        "repaired": Deviation.between(given, wanted).relative,
        "error": Deviation.between(wanted, original).relative,
        "same_choices": same / len(layers),
        "triton": _triton_errors(model.to(device), example.to(device)),
    }


def _triton_errors(model: nn.Module, example: Tensor) -> dict[str, float]:
    """Relative error of the fused kernel by dtype; nothing without a GPU."""
    small = uniform(model, example)
    if example.device.type != "cuda" or small is None:
        return {}
    x = torch.randn(4, *example.shape[1:], device=example.device)
    errors = {}
    for name in DTYPES:
        dtype = getattr(torch, name)
        there = small.to(dtype)
        calls = [
            get_engine(engine).prepare(there, x.to(dtype), 1) for engine in ("triton", "eager")
        ]
        fused, eager = (call() for call in calls)
        assert isinstance(fused, Tensor)
        assert isinstance(eager, Tensor)
        errors[name] = Deviation.between(fused, eager).relative
        small = small.float()
    return errors
