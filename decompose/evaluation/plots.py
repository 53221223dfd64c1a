"""Tables on the screen and as Markdown, and plots."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from decompose.evaluation.inspection import Inspection
from decompose.inference.benchmark import Benchmark, SpeedUp
from decompose.methods import METHODS
from decompose.utils.errors import DecomposeError
from decompose.utils.files import writing
from decompose.utils.optional_dependencies import required
from decompose.utils.tables import format_threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_TERMS = 9  # columns that remain legible; more taps than 3 x 3 are cut there

MARKERS = "osD^vP*X"


def plot_spectra(inspection: Inspection, path: str | Path) -> None:
    """Plot the energy of each convolution's first terms, a panel a method.

    Args:
        inspection: the model.
        path: the image file; its suffix is the format.

    Raises:
        DecomposeError: matplotlib is not installed, the model has no spatial convolution, or
            the file cannot be written.
    """
    layers = [layer for layer in inspection.layers if layer.energy]
    if not layers:
        raise DecomposeError("the model has no spatial convolution whose spectrum could be drawn")
    methods = list(layers[0].energy)
    most = min(
        _MOST_TERMS, max(len(layer.energy[method]) for layer in layers for method in methods)
    )
    figure = new_figure(2.6 + 4.2 * len(methods), 1.3 + 0.3 * len(layers))
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


def plot_speed_up(timed: Benchmark, path: str | Path) -> None:
    """Plot speed-up against the ratio of MACs, a line an engine and batch size.

    The diagonal is where fewer MACs are as much less time.

    Args:
        timed: models that took turns; the first is what the others are compared with.
        path: the image file; its suffix is the format.

    Raises:
        DecomposeError: matplotlib is not installed, or the file cannot be written.
    """
    lines: dict[str, list[SpeedUp]] = defaultdict(list)
    for ratio in timed.ratios():
        if ratio.latency.name != timed.latencies[0].name:
            label = f"{ratio.latency.engine}, batch {ratio.latency.batch_size}"
            lines[label].append(ratio)
    figure = new_figure(6.0, 4.6)
    ax = figure.subplots()
    for index, (label, ratios) in enumerate(lines.items()):
        ratios.sort(key=lambda ratio: ratio.macs)
        macs, speeds = [r.macs for r in ratios], [r.speed_up for r in ratios]
        ax.plot(macs, speeds, marker=MARKERS[index % len(MARKERS)], label=label)
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
    """Write a figure to an image, whole or not at all; its suffix is the format.

    Raises:
        DecomposeError: there is no such format, or the file cannot be written.
    """
    path = Path(path)
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix[1:] not in formats:
        raise DecomposeError(
            f"{path}: its ending names no image format; there are: {', '.join(sorted(formats))}"
        )
    with writing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=dpi)


def new_figure(width: float, height: float) -> Figure:
    """Create a figure, sized in inches, without the global state of pyplot."""
    figure = required("matplotlib.figure", "Matplotlib", "demo")
    return figure.Figure(figsize=(width, height), layout="constrained")
