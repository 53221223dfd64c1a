"""Render the figures of ``run.py``, without computing any of them again.

python -m experiments.finetune.table            writes results.md from results.json
python -m experiments.finetune.table --check    fails unless results.md and the folder's README
                                                say what results.json says
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decompose.utils.tables import Table, format_threads
from experiments.common.records import format_spread, render_or_check
from experiments.finetune.config import BARS, FROM_SCRATCH, WAYS

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"

VGG16 = "VGG16"
"""Which of the networks whose steps are timed; its convolutions and one linear layer."""

IMAGENET_PICTURES = 1_281_167
IMAGENET_EPOCHS = 10
GPU_TFLOPS = 312.0
"""An A100's peak in bfloat16, by its data sheet."""

GPU_SHARE = 0.4
"""Of its peak, that training a dense network is taken to reach."""


def tables(record: Mapping[str, Any]) -> list[Table]:
    """The tables that there are figures for, the bars first.

    Args:
        record: what ``run.py`` wrote to results.json.
    """
    made = [states(record), starts(record)] if record.get("seeds") else []
    if "photographs" in record:
        made.append(photographs(record))
    if "throughput" in record:
        made += [throughput(record, name) for name in record["throughput"]]
        made.append(gpu_hours(record))
    return made


def states(record: Mapping[str, Any]) -> Table:
    """Points against the original, from the truncated network to the finetuned one."""
    original = record["original"]
    rows = []
    for share, bar in BARS.items():
        before = record["shares"][f"{share:g}"]
        fixed = [
            f"{100 * (accuracy - original['accuracy']):+.2f}"
            for accuracy in before["accuracies"].values()
        ]
        rows.append(
            (
                f"{original['macs'] / before['macs']:.1f}× fewer",
                f"{before['macs'] / 1e6:.2f}",
                *fixed,
                *(_points(record, share, way) for way in ("labels", "distilled")),
                f"-{bar:.1f}",
            )
        )
    return Table(
        f"Fashion-MNIST, points of test accuracy against a VGG-style network of "
        f"{original['macs'] / 1e6:.1f} MMACs and {original['accuracy']:.2%}; finetuned with "
        f"{len(record['seeds'])} seeds: mean ± standard deviation",
        ["MACs", "MMACs", *WAYS.values(), "bar"],
        rows,
    )


def starts(record: Mapping[str, Any]) -> Table:
    """The same architecture and epochs, from random weights and from the decomposition."""
    names = {"random": "random weights", "labels": "the decomposition"}
    first = next(iter(record["seeds"].values()))[f"{FROM_SCRATCH:g}"]
    curves = {name: first["held_out"][way] for way, name in names.items()}
    return Table(
        f"{1 / FROM_SCRATCH:.0f}× fewer MACs, trained on labels from two beginnings, one seed: held-out "
        f"accuracy in %, the original's {record['original']['held_out']:.1%}",
        ["from", "at once", *(f"epoch {n}" for n in range(1, len(first["held_out"]["random"])))],
        [(name, *(f"{100 * share:.1f}" for share in curve)) for name, curve in curves.items()],
    )


def photographs(record: Mapping[str, Any]) -> Table:
    """VGG16 with a quarter of its MACs, before and after what photographs alone can do."""
    found = record["photographs"]
    size = f"{found['size']}×{found['size']}"
    names = {
        "original": "original",
        "truncated": "as truncated",
        "repaired": "repaired on photographs",
        "blockwise": "then blockwise on photographs",
    }
    return Table(
        "VGG16's real convolutions with a linear classifier on Fashion-MNIST, never shown an image "
        f"of it again: {found['num_photographs']} photographs, in {found['num_tiles']} tiles of {size}",
        ["", f"MMACs at {size}", "accuracy in %"],
        [
            (title, f"{found['macs'][name] / 1e6:.0f}", f"{100 * found['accuracies'][name]:.1f}")
            for name, title in names.items()
        ],
    )


def throughput(record: Mapping[str, Any], name: str) -> Table:
    """Steps of training, side by side."""
    timed = record["throughput"][name]
    original = timed["steps"]["original"]
    size, environment = timed["size"], record["environment"]
    return Table(
        f"A step of training {name} at {size}×{size}, batch {timed['batch_size']}; "
        f"{environment['machine']}, {format_threads(environment['threads'])}",
        ["", "fewer MACs", "ms an image", "times the original's"],
        [
            (
                title,
                f"{original['macs'] / step['macs']:.2f}×",
                f"{step['ms']:.2f} ± {step['spread_ms']:.2f}",
                f"{step['ms'] / original['ms']:.2f}",
            )
            for title, step in timed["steps"].items()
        ],
    )


def gpu_hours(record: Mapping[str, Any]) -> Table:
    """What ImageNet would cost, by arithmetic.

    The original's step takes three forward passes' MACs, two FLOPs each, at the share of the peak that
    is assumed; the others' take as many times that as they do here.
    """
    timed = record["throughput"][VGG16]
    steps, size = timed["steps"], 224
    flops = 6 * steps["original"]["macs"] * (size / timed["size"]) ** 2
    hours = IMAGENET_PICTURES * IMAGENET_EPOCHS * flops / (1e12 * GPU_TFLOPS * GPU_SHARE) / 3600
    return Table(
        f"An estimate, by arithmetic: GPU hours of {IMAGENET_EPOCHS} epochs of ImageNet, {VGG16} at "
        f"{size}×{size}, an A100 at {GPU_SHARE:.0%} of its {GPU_TFLOPS:.0f} TFLOP/s",
        ["", "hours"],
        [
            (title, f"{hours * step['ms'] / steps['original']['ms']:.1f}")
            for title, step in steps.items()
        ],
    )


def _points(record: Mapping[str, Any], share: float, way: str) -> str:
    accuracies = [seed[f"{share:g}"]["accuracies"][way] for seed in record["seeds"].values()]
    points = [100 * (accuracy - record["original"]["accuracy"]) for accuracy in accuracies]
    return format_spread(points, "+", 2)


if __name__ == "__main__":
    sys.exit(render_or_check(sys.argv[1:], FOLDER, README, tables))
