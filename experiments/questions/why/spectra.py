"""How much of a convolution its first depthwise separable terms hold, beside random weights.

Network decoupling, PW+DW (Guo et al. 2018): the share of a kernel's energy, its sum of squares, that the
first T terms hold. The control is a kernel of the same shape with independent normal weights: what it
holds follows from the shape alone, and what a trained one holds beyond that was learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from decompose.algebra import Conv
from decompose.evaluation.plots import save_figure
from decompose.methods import METHODS
from decompose.methods.ranks import rank_for_ratio

METHOD = METHODS["pw_dw"]
FEWER_WEIGHTS = 2
"""How many times fewer weights the terms have that are asked after in the table."""


def spectra(convs: Mapping[str, Conv], seed: int = 0) -> list[dict[str, Any]]:
    """What the terms of every convolution hold.

    Returns:
        A record a convolution: ``name``, ``shape`` for readers, ``taps``, ``trained`` and ``random``,
        the shares that the first 1, 2, ... terms hold, and ``half``, the number of terms that have half
        the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for name, conv in convs.items():
        control = Conv(torch.randn(conv.weight.shape, generator=generator))
        taps = "×".join(map(str, conv.kernel_size))
        found.append(
            {
                "name": name,
                "shape": f"{taps} {conv.in_channels}→{conv.out_channels}",
                "taps": conv.num_taps,
                "trained": METHOD.energy(conv).tolist(),
                "random": METHOD.energy(control).tolist(),
                "half": rank_for_ratio(METHOD, conv, FEWER_WEIGHTS),
            }
        )
    return found


def draw_spectra(networks: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draw a panel a network: energy against terms, a line a layer, random weights in grey.

    Args:
        networks: what ``spectra`` returned, by the networks' names.
        path: the PNG file.
    """
    figure = Figure(figsize=(3.1 * len(networks) + 0.4, 3.5), layout="constrained")
    axes = figure.subplots(1, len(networks), sharey=True, squeeze=False)[0]
    for ax, (name, layers) in zip(axes, networks.items(), strict=True):
        for depth, layer in enumerate(layers):
            colour = colormaps["viridis"](0.9 * depth / max(1, len(layers) - 1))
            _line(ax, layer["random"], color="0.75", linewidth=1)
            _line(ax, layer["trained"], color=colour, linewidth=1.2, zorder=3)
        ax.set_title(f"{name}, {len(layers)} layers", fontsize=10)
        ax.set_xlabel("share of all terms")
        ax.grid(alpha=0.3)
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1.01)
    for formatted in [axes[0].yaxis, *(ax.xaxis for ax in axes)]:
        formatted.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes[0].set_ylabel("energy held")
    figure.suptitle(
        "What the first depthwise separable terms of every layer hold "
        "(dark: first layer, bright: last; grey: random weights of the same shapes)",
        fontsize=10,
    )
    save_figure(figure, path, dpi=110)


def _line(ax: Axes, held: Sequence[float], **style: Any) -> None:
    shares = [term / len(held) for term in range(len(held) + 1)]
    ax.plot(shares, [0.0, *held], **style)
