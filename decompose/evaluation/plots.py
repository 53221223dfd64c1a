"""Tables on the screen and as Markdown, and plots."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.console import Console

from decompose.evaluation.inspection import Inspection
from decompose.inference.benchmark import Ratio, SideBySide
from decompose.methods import METHODS
from decompose.utils.errors import DecomposeError
from decompose.utils.files import write_text, writing
from decompose.utils.optional_dependencies import required
from decompose.utils.tables import Table, format_threads

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

_MOST_TERMS = 9  # columns that remain legible; more taps than 3 x 3 are cut there

_MARKERS = "osD^vP*X"

_MOST_INSIDE = 6
"""Labels of a legend that finds room among the curves."""


class Point(NamedTuple):
    """What a network costs and loses, at one rank where it has one."""

    rank: int | None
    macs: int
    error: float


def show_table(table: Table, markdown: str | Path | None = None) -> None:
    """Print a table, and write it to a Markdown file where one is named.

    Raises:
        DecomposeError: the file cannot be written.
    """
    console = Console()
    # A number that is cut off is worse than a line that wraps.
    needed = console.measure(table, options=console.options.update(max_width=1000)).maximum
    console.width = max(console.width, needed)
    console.print(table)
    if markdown is not None:
        write_text(markdown, table.to_markdown())


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
    save_figure(figure, path)


def plot_error_against_macs(
    curves: Mapping[str, Sequence[Point]], original_macs: int, path: str | Path, *, title: str
) -> None:
    """Draw what each method loses against what it saves, a point a rank.

    Args:
        curves: points by method, or by another name; errors relative and squared.
        original_macs: MACs of the original network.
        path: the picture; its ending tells the format.
        title: what was measured, on what.

    Raises:
        DecomposeError: matplotlib is not installed, or the file cannot be written.
    """
    figure = _figure(6.4, 4.4)
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
        path: the picture; its ending tells the format.
        title: what was measured.
        label: of the accuracy: which it is, on what.

    Raises:
        DecomposeError: matplotlib is not installed, or the file cannot be written.
    """
    figure = _figure(6.4, 4.4)
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


def plot_speed_up(timed: SideBySide, path: str | Path) -> None:
    """Draw speed-up against the ratio of MACs, a line an engine and batch size.

    The diagonal is where fewer MACs are as much less time.

    Args:
        timed: networks that took turns; the first is what the others are compared with.
        path: the picture; its ending tells the format.

    Raises:
        DecomposeError: matplotlib is not installed, or the file cannot be written.
    """
    lines: dict[str, list[Ratio]] = defaultdict(list)
    for ratio in timed.ratios():
        if ratio.latency.name != timed.latencies[0].name:
            label = f"{ratio.latency.engine}, batch {ratio.latency.batch_size}"
            lines[label].append(ratio)
    figure = _figure(6.0, 4.6)
    ax = figure.subplots()
    for index, (label, ratios) in enumerate(lines.items()):
        ratios.sort(key=lambda ratio: ratio.macs)
        macs, speeds = [r.macs for r in ratios], [r.speed_up for r in ratios]
        ax.plot(macs, speeds, marker=_MARKERS[index % len(_MARKERS)], label=label)
    most = max((ratio.macs for ratios in lines.values() for ratio in ratios), default=2.0)
    ax.axline((0, 0), slope=1, color="grey", linestyle=":", label="as the MACs promise")
    ax.axhline(1, color="grey", linewidth=0.8)
    ax.set_xlim(1, 1.08 * most)
    fastest = max((r.speed_up for ratios in lines.values() for r in ratios), default=most)
    ax.set_ylim(0, 1.08 * max(most, fastest))
    ax.set_xlabel("times fewer MACs")
    ax.set_ylabel("times faster than the original")
    ax.set_title(f"{timed.machine}, {format_threads(timed.num_threads)}", fontsize=10)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    save_figure(figure, path)


def save_figure(figure: Figure, path: str | Path, dpi: int = 130) -> None:
    """Write a figure to a picture, whole or not at all; the path's ending tells the format.

    Raises:
        DecomposeError: there is no such format, or the file cannot be written.
    """
    path = Path(path)
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix[1:] not in formats:
        raise DecomposeError(
            f"{path}: its ending names no picture format; there are: {', '.join(sorted(formats))}"
        )
    with writing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=dpi)


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
        ax.plot(macs, errors, marker=_MARKERS[index % len(_MARKERS)], label=label)
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


def _figure(width: float, height: float) -> Figure:
    """Open a figure of its own, in inches, without the global state of pyplot."""
    figure = required("matplotlib.figure", "Matplotlib", "demo")
    return figure.Figure(figsize=(width, height), layout="constrained")
