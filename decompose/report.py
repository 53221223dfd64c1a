"""Plots. Tables are made where their figures are (``tables.Table``) and shown from here on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from decompose.errors import DecomposeError
from decompose.files import writing
from decompose.inspection import Inspection
from decompose.methods import METHODS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_TERMS = 9  # columns that remain legible; more taps than 3 x 3 are cut there


class Point(NamedTuple):
    """What a network costs and loses at one rank."""

    rank: int
    macs: int
    error: float


def plot_spectra(inspection: Inspection, path: str | Path) -> None:
    """Draw how much of each convolution its first terms hold, a panel a method.

    Args:
        inspection: the network.
        path: the picture; its ending tells the format.

    Raises:
        DecomposeError: matplotlib is not installed, the network has no spatial convolution, or
            the file cannot be written.
    """
    layers = [layer for layer in inspection.layers if layer.energy]
    if not layers:
        raise DecomposeError("the network has no spatial convolution whose spectrum could be drawn")
    methods = list(layers[0].energy)
    most = min(
        _MOST_TERMS, max(len(layer.energy[method]) for layer in layers for method in methods)
    )
    figure = _figure(2.6 + 4.2 * len(methods), 1.3 + 0.3 * len(layers))
    axes = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    images = []
    for ax, method in zip(axes, methods, strict=True):
        shares = np.ones((len(layers), most))
        for row, layer in enumerate(layers):
            held = layer.energy[method][:most]
            shares[row, : len(held)] = held
        images.append(ax.imshow(shares, vmin=0, vmax=1, cmap="viridis", aspect="auto"))
        for (row, column), share in np.ndenumerate(shares):
            label = f"{100 * share:.1f}"
            colour = "black" if share > 0.6 else "white"
            ax.text(column, row, label, ha="center", va="center", color=colour, fontsize=7)
        ax.set_title(METHODS[method].title)
        ax.set_xlabel("first terms")
        ax.set_xticks(range(most), [str(term) for term in range(1, most + 1)])
        ax.set_yticks(range(len(layers)), [layer.name for layer in layers])
    figure.colorbar(images[0], ax=axes, label="share of the kernel's energy", format="{x:.0%}")
    figure.suptitle("Energy (%) of a convolution held by its first depthwise separable terms")
    _save(figure, path)


def plot_error_against_macs(
    curves: Mapping[str, Sequence[Point]], original_macs: int, path: str | Path, *, title: str
) -> None:
    """Draw what each method loses against what it saves, a point a rank.

    Args:
        curves: points by method, errors relative and squared.
        original_macs: MACs of the original network.
        path: the picture; its ending tells the format.
        title: what was measured, on what.

    Raises:
        DecomposeError: matplotlib is not installed, or the file cannot be written.
    """
    figure = _figure(6.4, 4.4)
    from matplotlib.ticker import LogLocator

    ax = figure.subplots()
    for (method, points), marker in zip(curves.items(), "osD^vP*X" * len(curves), strict=False):
        macs = [point.macs / 1e9 for point in points]
        ax.plot(macs, [p.error for p in points], marker=marker, label=METHODS[method].title)
        for point, x in zip(points, macs, strict=True):
            ax.annotate(
                f"T={point.rank}",
                (x, point.error),
                textcoords="offset points",
                xytext=(6, 4),
                fontsize=8,
            )
    ax.axvline(original_macs / 1e9, color="grey", linestyle=":", label="original network")
    ax.set_yscale("log", subs=range(2, 10))
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
    ax.set_xlim(left=0)
    ax.set_xlabel("GMACs")
    ax.set_ylabel("relative squared error")
    ax.set_title(title, fontsize=10)
    ax.grid(which="both", alpha=0.3)
    ax.legend()
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    """Open a figure of its own, in inches, without the global state of pyplot."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise DecomposeError("plots need matplotlib: pip install 'decompose[demo]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: str | Path) -> None:
    path = Path(path)
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix[1:] not in formats:
        raise DecomposeError(
            f"{path}: its ending names no picture format; there are: {', '.join(sorted(formats))}"
        )
    with writing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=130)
