"""Draw what goes in, and accuracy against terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from decompose.evaluation.plots import save_figure
from decompose.methods import METHODS

STYLES = {"truncated": ":", "repaired": "-"}


def draw_accuracy(record: Mapping[str, Any], path: Path) -> None:
    """A panel a network: a line for each order of the terms, as truncated and repaired.

    Args:
        record: what ``run.py`` wrote to results.json.
        path: the PNG file.
    """
    tasks = record["tasks"]
    figure = Figure(figsize=(4.6 * len(tasks), 4.4), layout="constrained")
    axes = figure.subplots(1, len(tasks), sharey=True)
    for ax, task in zip(axes, tasks, strict=True):
        for colour, (method, points) in enumerate(task["curves"].items()):
            for how, style in STYLES.items():
                ax.errorbar(
                    record["ranks"],
                    [100 * mean(point[how]) for point in points],
                    [100 * stdev(point[how]) for point in points],
                    linestyle=style,
                    marker="os"[colour],
                    color=f"C{colour}",
                    capsize=3,
                    label=f"{METHODS[method].title.rpartition(' ')[2]}, "
                    + ("repaired" if how == "repaired" else "as truncated"),
                )
        before = 100 * mean(task["accuracies"])
        ax.axhline(before, color="grey", linewidth=1, label="original network")
        ax.axhline(100 / task["num_classes"], color="grey", linestyle=":", label="guessing")
        ax.set_title(f"{task['title']}, {task['taps']} taps", fontsize=10)
        ax.set_xlabel("terms a layer")
        ax.set_xticks(record["ranks"])
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy in %")
    axes[0].set_ylim(0, 102)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle("Decomposed without training", fontsize=11)
    save_figure(figure, path, dpi=110)


def draw_inputs(shown: Mapping[str, tuple[Tensor, Sequence[str]]], path: Path) -> None:
    """One input of every class, a row a kind.

    Args:
        shown: by kind, inputs ``(classes, 1, ...)``, and the names of their classes. Of volumes the
            mean along the first axis is drawn.
        path: the PNG file.
    """
    columns = max(len(inputs) for inputs, _ in shown.values())
    figure = Figure(figsize=(1.45 * columns, 1.7 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), columns)
    for row, (kind, (inputs, names)) in zip(axes, shown.items(), strict=True):
        for ax, values, name in zip(row, inputs[:, 0], names, strict=True):
            if values.ndim == 1:
                ax.plot(values.numpy(), linewidth=0.8)
            else:
                ax.imshow(values.mean(0).numpy(), cmap="gray")
            ax.set_title(name, fontsize=9)
            ax.set_xticks([])
            ax.set_yticks([])
        row[0].set_ylabel(kind, fontsize=9)
    figure.suptitle("What goes in: an input of each class (volumes seen through)", fontsize=11)
    save_figure(figure, path, dpi=110)
