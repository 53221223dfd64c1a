"""Accuracy against MACs, one line a way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decompose.evaluation.plots import MARKERS, new_figure, save_figure
from experiments.cifar10.published import NETWORK, PUBLISHED
from experiments.cifar10.ways import WAYS


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Draw what each way keeps, a panel a network.

    Args:
        record: what ``run.py`` wrote to results.json.
        path: of the image; its ending names the format.
    """
    networks = record["networks"]
    figure = new_figure(5.2 * len(networks), 4.8)
    panels = figure.subplots(1, len(networks), squeeze=False)[0]
    for ax, (name, found) in zip(panels, networks.items(), strict=True):
        original = found["original"]
        for way, points in found["ways"].items():
            # A way may be in one panel only, and looks the same in both.
            index = list(WAYS).index(way)
            macs = [100 * point["macs"] / original["macs"] for point in points.values()]
            kept = [100 * point["accuracy"]["value"] for point in points.values()]
            marker = MARKERS[index % len(MARKERS)]
            look = {"marker": marker, "color": f"C{index}", "markersize": 5}
            ax.plot(macs, kept, label=WAYS[way].title, **look)
        ax.axhline(100 * original["accuracy"]["value"], color="grey", linestyle=":", linewidth=0.8)
        if name == NETWORK:
            ax.plot(
                [100 * other.macs for other in PUBLISHED],
                [other.after for other in PUBLISHED],
                "x",
                color="grey",
                label="published, finetuned",
            )
        ax.set_title(name.replace("resnet", "ResNet-"), fontsize=10)
        ax.set_xlim(0, 104)
        ax.set_xlabel("MACs, % of the original's")
        ax.set_ylabel("top-1 on CIFAR-10's test images, %")
        ax.grid(alpha=0.3)
    shown = dict(
        pair for ax in panels for pair in zip(*ax.get_legend_handles_labels()[::-1], strict=True)
    )
    figure.legend(
        shown.values(), shown.keys(), fontsize=8, loc="outside lower center", ncols=3, frameon=False
    )
    save_figure(figure, path)
