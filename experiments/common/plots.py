"""Plots that several experiments draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from decompose.methods import METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor
from decompose.evaluation.plots import MARKERS, new_figure, save_figure

_MOST_INSIDE = 6
"""Labels of a legend that finds room among the curves."""


class Point(NamedTuple):
    """What a network costs and loses, at one rank where it has one."""

    rank: int | None
    macs: int
    error: float


def plot_error_against_macs(
    curves: Mapping[str, Sequence[Point]], original_macs: int, path: str | Path, *, title: str
) -> None:
    """Draw what each method loses against what it saves, a point a rank.

    Args:
        curves: points by method, or by another name; errors relative and squared.
        original_macs: MACs of the original network.
        path: the image file; its suffix is the format.
        title: what was measured, on what.

    Raises:
        DecomposeError: matplotlib is not installed, or the file cannot be written.
    """
    figure = new_figure(6.4, 4.4)
    from matplotlib.ticker import LogLocator  # there, since there is a figure

    ax = figure.subplots()
    _draw_curves(ax, curves)
    ax.axvline(original_macs / 1e9, color="grey", linestyle=":", label="original network")
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
    ax.set_xlim(left=0)
    ax.set_xlabel("GMACs")
    ax.set_ylabel("relative squared error")
    ax.set_title(title, fontsize=10)
    ax.grid(which="both", alpha=0.3)
    _add_legend(figure, ax)
    save_figure(figure, path)


def plot_accuracy_against_macs(
    curves: Mapping[str, Sequence[Point]],
    original: Point,
    path: str | Path,
    *,
    title: str,
    label: str,
) -> None:
    """Draw what each method keeps against what it costs, a point a rank.

    Args:
        curves: points by method, or by another name; in place of the error, the accuracy as a share.
        original: the original network, likewise.
        path: the image file; its suffix is the format.
        title: what was measured.
        label: of the accuracy: which it is, on what.

    Raises:
        DecomposeError: matplotlib is not installed, or the file cannot be written.
    """
    figure = new_figure(6.4, 4.4)
    ax = figure.subplots()
    _draw_curves(ax, curves)
    macs, accuracy = original.macs / 1e9, original.error
    ax.plot([macs], [accuracy], "k*", markersize=11, label="original network")
    ax.axhline(accuracy, color="grey", linestyle=":", linewidth=0.8)
    ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f}%")
    ax.set_xlim(left=0)
    ax.set_xlabel("GMACs")
    ax.set_ylabel(label)
    ax.set_title(title, fontsize=10)
    ax.grid(alpha=0.3)
    _add_legend(figure, ax)
    save_figure(figure, path)


def show_weights(ax: Axes, values: Tensor, limit: float) -> None:
    """Show a small matrix of weights: blue for negative ones, red for positive, up to the limit."""
    ax.imshow(values.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set_xticks([])
    ax.set_yticks([])


def write_sign(ax: Axes, text: str, size: float = 12) -> None:
    """Write a sign where a figure spells an equation."""
    ax.axis("off")
    ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=size)


def _draw_curves(ax: Axes, curves: Mapping[str, Sequence[Point]]) -> None:
    """A line a method, its ranks written beside the points."""
    for index, (method, points) in enumerate(curves.items()):
        macs = [point.macs / 1e9 for point in points]
        errors = [point.error for point in points]
        label = METHODS[method].title if method in METHODS else method
        ax.plot(macs, errors, marker=MARKERS[index % len(MARKERS)], label=label)
        # Labels of neighbouring curves stand on opposite sides.
        offset, side = ((6, 4), "left") if index % 2 else ((-6, -12), "right")
        for point, x in zip(points, macs, strict=True):
            if point.rank is None:
                continue
            ax.annotate(
                f"T={point.rank}",
                (x, point.error),
                textcoords="offset points",
                xytext=offset,
                ha=side,
                fontsize=8,
            )


def _add_legend(figure: Figure, ax: Axes) -> None:
    """A legend among the curves where they are few; beside them where it would cover some."""
    if len(ax.get_legend_handles_labels()[0]) <= _MOST_INSIDE:
        ax.legend(fontsize=8)
        return
    figure.set_figwidth(1.5 * figure.get_figwidth())
    figure.legend(fontsize=8, loc="outside right upper")
