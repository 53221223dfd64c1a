"""How the time to compress grows with depth, and with the number of images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decompose.evaluation.plots import MARKERS, new_figure, save_figure

DEPTHS = "CIFAR-10's ResNets, 64 images"


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Draw passes against depth, and passes and memory against the number of images.

    Args:
        record: what ``run.py`` wrote to results.json.
        path: of the image; its ending names the format.
    """
    figure = new_figure(12, 3.8)
    by_depth, by_images, memory = figure.subplots(1, 3)
    depths = _points(record, r"resnet(\d+)-64", lambda case: _passes(case) * case["pass_ms"] / 1e3)
    by_depth.plot(*depths, marker=MARKERS[0])
    by_depth.set_title(DEPTHS, fontsize=10)
    by_depth.set_xticks(depths[0])
    by_depth.set_xlim(left=0)
    by_depth.set_xlabel("layers")
    by_depth.set_ylabel("plan + repair, CPU seconds")
    series = {"ResNet-20": r"resnet20-(\d+)", "VGG16's convolutions": r"vgg16-([1-9]\d*)"}
    for (title, pattern), marker in zip(series.items(), MARKERS, strict=False):
        by_images.plot(*_points(record, pattern, _passes), marker=marker, label=title)
        taken = _points(record, pattern, lambda case: case["peak_bytes"] / 1e9)
        memory.plot(*taken, marker=marker, label=title)
    for ax, label in ((by_images, "plan + repair, passes"), (memory, "memory, GB")):
        ax.set_xlabel("images")
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:.0f}")
        ax.set_ylabel(label)
        ax.legend(fontsize=8)
    for ax in (by_depth, by_images, memory):
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
    save_figure(figure, path)


def _passes(case: Mapping[str, Any]) -> float:
    return case["plan_passes"] + case["repair_passes"]


def _points(record: Mapping[str, Any], pattern: str, value: Any) -> tuple[list[int], list[float]]:
    """The numbers in the names of cases, in order, and what each case came to."""
    found = {
        int(match[1]): value(case)
        for name, case in record.items()
        if (match := re.fullmatch(pattern, name))
    }
    numbers = sorted(found)
    return numbers, [found[number] for number in numbers]
