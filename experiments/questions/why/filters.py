"""Draw kernels of a layer beside their first components."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from decompose.evaluation.plots import save_figure

SHOWN_CHANNELS, SHOWN_INPUTS, SHOWN_TERMS = 6, 8, 4
GAP = 1
"""Pixels between two kernels of the picture."""

LABEL = 2
"""Pixels for the text below a kernel."""


def draw_filters(weights: Mapping[str, Tensor], path: Path) -> None:
    """Draw a panel a layer: a row an output channel, its kernels to the left, its components right.

    Of each output channel the inputs with the largest kernels are shown; the components are those of
    all its inputs, each with the share of the energy that it holds.

    Args:
        weights: kernels ``(O, I, k, k)`` by title.
        path: the PNG file.
    """
    figure = Figure(figsize=(4.4 * len(weights), 3.6), layout="constrained")
    axes = figure.subplots(1, len(weights), squeeze=False, gridspec_kw={"wspace": 0.12})[0]
    for ax, (title, weight) in zip(axes, weights.items(), strict=True):
        _draw_layer(ax, weight)
        ax.set_title(title, fontsize=10, loc="left")
    figure.suptitle(
        f"Kernels of {SHOWN_CHANNELS} output channels, and the first components of each, "
        "with the share that they hold",
        fontsize=10,
    )
    save_figure(figure, path, dpi=120)


def _draw_layer(ax: Axes, weight: Tensor) -> None:
    # Evenly over the layer: neighbouring channels are as good as any.
    step = max(1, len(weight) // SHOWN_CHANNELS)
    cell = weight.shape[-1] + GAP
    height = cell + LABEL
    columns = SHOWN_INPUTS + 1 + SHOWN_TERMS
    image = torch.full((SHOWN_CHANNELS * height, columns * cell), torch.nan)
    for row, kernels in enumerate(weight[::step][:SHOWN_CHANNELS]):
        top = row * height
        _, sigma, vt = torch.linalg.svd(kernels.flatten(1), full_matrices=False)
        held = sigma.square() / sigma.square().sum()
        strongest = kernels.flatten(1).norm(dim=1).topk(SHOWN_INPUTS).indices
        patterns = vt[:SHOWN_TERMS].view(-1, *kernels.shape[1:])
        for column, tile in enumerate([*kernels[strongest], *patterns]):
            left = (column + (column >= SHOWN_INPUTS)) * cell
            tile = tile / tile.abs().max()
            image[top : top + cell - GAP, left : left + cell - GAP] = tile
        for term in range(SHOWN_TERMS):
            middle = (SHOWN_INPUTS + 1 + term) * cell + (cell - GAP) / 2 - 0.5
            label = f"{held[term]:.0%}"
            ax.text(middle, top + cell - 0.4, label, ha="center", va="top", fontsize=7)
    ax.imshow(image.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    ax.axis("off")
