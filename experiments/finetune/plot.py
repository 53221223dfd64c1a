"""Draw accuracy after each epoch, from the decomposition and from random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from decompose.evaluation.plots import save_figure
from experiments.finetune.config import BARS

CURVES = {
    "distilled": "from the decomposition, distilled",
    "labels": "from the decomposition, on labels",
    "random": "from random weights, on labels, one seed",
}

LEAST_SHOWN = 86
"""In %; accuracies below are left out of the picture."""


def draw(record: Mapping[str, Any], path: Path) -> None:
    """A panel a share of the MACs; lines are means over the seeds, bands reach from least to most.

    Args:
        record: what ``run.py`` wrote to results.json.
        path: the PNG file.
    """
    seeds = list(record["seeds"].values())
    original = record["original"]["held_out"]
    epochs = range(1 + record["setting"]["tuned"]["epochs"])
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, len(BARS), sharey=True)
    for ax, share in zip(axes, BARS, strict=True):
        for name, label in CURVES.items():
            found = [seed[f"{share:g}"]["held_out"].get(name) for seed in seeds]
            # From random weights there is one seed, and one share.
            if not any(found):
                continue
            curves = 100 * np.array([curve for curve in found if curve])
            (line,) = ax.plot(epochs, curves.mean(0), marker="o", label=label)
            ax.fill_between(
                epochs, curves.min(0), curves.max(0), color=line.get_color(), alpha=0.2, linewidth=0
            )
        ax.axhline(100 * original, color="grey", linestyle=":", label="original network")
        ax.set_title(f"{1 / share:.0f}× fewer MACs", fontsize=10)
        ax.set_xlabel("epochs")
        ax.set_xticks(epochs)
        ax.grid(alpha=0.3)
    # What random weights begin with, a tenth, would leave no room for the rest.
    axes[0].set_ylim(LEAST_SHOWN, 100 * original + 1)
    axes[0].set_ylabel("held-out accuracy in %")
    axes[0].legend(fontsize=8, loc="lower right")
    figure.suptitle(f"Fashion-MNIST, {len(seeds)} seeds", fontsize=11)
    save_figure(figure, path)
