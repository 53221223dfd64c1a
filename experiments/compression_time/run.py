"""Time to compress: what planning and repairing cost, in forward passes of the model.

Every case runs in a process of its own, on one thread: a plan for half the MACs, calibrated on images
where there are some, and the repair on the same images, or on synthetic ones. The unit is the CPU time of
one forward pass of the original on one input, so that a machine's speed cancels. Images are synthetic,
and weights random but VGG16's: neither changes what there is to do.

    python -m experiments.compression_time.run --output runs/compression_time
    python -m experiments.compression_time.run --output runs/compression_time --case resnet20-64

An hour and a half on one idle core. Expect the cost to grow as the model does, not as its depth squared,
and memory that is flat in the number of images. ``table.py`` renders the figures.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import torchvision
import typer
from torch import nn

import decompose
from decompose.models.architectures import OFFLINE_VGG16
from decompose.utils.batches import Batches, Example, InputBatches, call
from decompose.utils.environment import environment
from experiments.cifar10.networks import CifarResNet
from experiments.common.records import keep, publish, take_up
from experiments.compression_time.plot import draw
from experiments.compression_time.table import summarize

MACS = 0.5
NUM_SYNTHETIC = 8
"""Images that a model is repaired on where it is planned on none."""

_SECONDS = 60.0
"""Seconds after which no case is measured once more: a machine's speed wanders, so medians count."""

_SAMPLED_S = 0.02


@dataclass(frozen=True)
class Case:
    """A model, and the images that it is planned and repaired on.

    Attributes:
        title: for the table.
        build: makes the model.
        size: pixels along each side of an image.
        num_images: 0 plans on none.
        detects: whether it takes a list of images, as torchvision's detectors do.
    """

    title: str
    build: Callable[[], nn.Module]
    size: int
    num_images: int
    detects: bool = False

    def example(self) -> Example:
        """One image of zeros, as the model takes it."""
        blank = torch.zeros(3, self.size, self.size)
        return ([blank],) if self.detects else blank[None]


def _ssd300() -> nn.Module:
    return torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None)


def _cifar(depth: int) -> Callable[[], nn.Module]:
    return lambda: CifarResNet(depth)


CASES = {
    "vgg16-0": Case("VGG16's convolutions", lambda: decompose.load(OFFLINE_VGG16), 224, 0),
    "vgg16-16": Case("VGG16's convolutions", lambda: decompose.load(OFFLINE_VGG16), 224, 16),
    "vgg16-64": Case("VGG16's convolutions", lambda: decompose.load(OFFLINE_VGG16), 224, 64),
    "vgg16-512": Case("VGG16's convolutions", lambda: decompose.load(OFFLINE_VGG16), 224, 512),
    **{
        f"resnet{depth}-64": Case(f"ResNet-{depth} of CIFAR-10", _cifar(depth), 32, 64)
        for depth in (20, 32, 44, 56, 110)
    },
    **{
        f"resnet20-{num}": Case("ResNet-20 of CIFAR-10", _cifar(20), 32, num)
        for num in (16, 256, 1024)
    },
    "resnet50-16": Case("ResNet-50", lambda: torchvision.models.resnet50(), 224, 16),
    "alexnet-0": Case("AlexNet", lambda: torchvision.models.alexnet(), 224, 0),
    "ssd300-0": Case("SSD300", _ssd300, 300, 0, detects=True),
}


def main(
    output: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path(
        "runs/compression_time"
    ),
    case: Annotated[str | None, typer.Option(help="Measure this one alone.")] = None,
    limit: Annotated[float, typer.Option(help="Seconds for each case.")] = 3600.0,
) -> None:
    """Measure every case that is not measured yet, and write it all down."""
    path = output / "results.json"
    record = take_up(path, {"macs": MACS, "num_synthetic": NUM_SYNTHETIC})
    if case is not None:
        record["environment"] = environment()
        record[case] = measure_case(CASES[case])
        keep(record, path)
        return
    for name in CASES:
        if name not in json.loads(path.read_text(encoding="utf-8")):
            command = [sys.executable, "-m", "experiments.compression_time.run"]
            options = ["--output", str(output), "--case", name]
            subprocess.run([*command, *options], check=False, timeout=limit)
    record = json.loads(path.read_text(encoding="utf-8"))
    draw(record, output / "growth.png")
    publish(summarize(record), output)


def measure_case(case: Case) -> dict[str, Any]:
    """Plan and repair one model on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = case.build().eval()
    example = case.example()
    # What a first call alone does is no part of the cost.
    images = decompose.synthetic_inputs(example, model, num=case.num_images or NUM_SYNTHETIC)
    one = next(iter(InputBatches(images, model)))
    calibrate = images if case.num_images else None
    started, rounds = time.perf_counter(), []
    while not rounds or time.perf_counter() - started < _SECONDS:
        rounds.append(_measured_once(model, one, images, calibrate))
    plan = rounds[0]["plan"]
    return {
        "title": case.title,
        "num_images": case.num_images,
        "num_layers": len(plan.layers) + len(plan.dense),
        "num_rounds": len(rounds),
        **{
            name: median(found[name] for found in rounds)
            for name in ("pass_ms", "plan_passes", "repair_passes")
        },
        "peak_bytes": max(found["peak_bytes"] for found in rounds),
    }


def _measured_once(
    model: nn.Module, one: Example, images: Batches, calibrate: Batches | None
) -> dict[str, Any]:
    """Plan and repair once, in passes that are timed before and after."""
    unit = pass_time(model, one)
    gc.collect()
    with peak_memory() as plan_bytes:
        start = time.process_time()
        plan = decompose.plan(model, one, macs=MACS, calibrate=calibrate)
        planned = time.process_time()
    with peak_memory() as repair_bytes:
        start_repair = time.process_time()
        decompose.apply(plan, model, calibrate=images)
        repaired = time.process_time()
    unit = (unit + pass_time(model, one)) / 2
    return {
        "plan": plan,
        "pass_ms": unit * 1e3,
        "plan_passes": (planned - start) / unit,
        "repair_passes": (repaired - start_repair) / unit,
        "peak_bytes": max(plan_bytes[0], repair_bytes[0]),
    }


def pass_time(model: nn.Module, x: Example, seconds: float = 2.0) -> float:
    """CPU seconds of one forward pass."""
    with torch.no_grad():
        call(model, x)
        count, start = 0, time.process_time()
        while time.process_time() - start < seconds:
            call(model, x)
            count += 1
        return (time.process_time() - start) / count


@contextmanager
def peak_memory() -> Any:
    """The most memory that the process takes inside beyond what it had, in bytes, in a list of one."""
    base, found, ended = _resident_bytes(), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(_SAMPLED_S):
            found[0] = max(found[0], _resident_bytes() - base)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


if __name__ == "__main__":
    typer.run(main)
