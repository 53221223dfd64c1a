"""Draw accuracy against parameters, MACs and time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from decompose.evaluation.plots import save_figure
from experiments.questions.cost.table import speed_ups

MARKERS = "osD^v"
LEAST_SHOWN = 0.8
"""Accuracies below are left out of the picture; the table has them."""


def draw(record: Mapping[str, Any], path: Path) -> None:
    """A panel a cost: networks trained from scratch, and the regular one decomposed and repaired.

    Args:
        record: what ``run.py`` wrote to results.json.
        path: the PNG file.
    """
    times = {name: 1 / speed for name, speed in speed_ups(record).items()}
    costs = {
        "thousand parameters": lambda name, network: network["params"] / 1e3,
        "million MACs": lambda name, network: network["macs"] / 1e6,
        "time, of the regular network's": lambda name, network: times.get(name),
    }
    figure = Figure(figsize=(11.5, 4.3), layout="constrained")
    axes = figure.subplots(1, len(costs), sharey=True)
    for ax, (label, cost) in zip(axes, costs.items(), strict=True):
        for marker, (name, network) in zip(MARKERS, record["networks"].items(), strict=True):
            shares = network["accuracies"]
            ax.errorbar(
                cost(name, network),
                100 * mean(shares),
                100 * stdev(shares),
                marker=marker,
                linestyle="",
                capsize=3,
                label=name,
            )
        shown = [
            (cost(name, network), network["repaired"])
            for name, network in record["decomposed"].items()
            if mean(network["repaired"]) > LEAST_SHOWN and cost(name, network) is not None
        ]
        ax.errorbar(
            [x for x, _ in shown],
            [100 * mean(shares) for _, shares in shown],
            [100 * stdev(shares) for _, shares in shown],
            marker="x",
            linestyle=":",
            color="0.4",
            capsize=3,
            label="regular, decomposed and repaired",
        )
        ax.set_xlim(left=0)
        ax.set_xlabel(label)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy in %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(
        f"Fashion-MNIST, {len(record['seeds'])} seeds: mean and standard deviation", fontsize=11
    )
    save_figure(figure, path, dpi=110)
