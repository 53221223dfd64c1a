"""Why do depthwise separable convolutions work? What trained kernels have that random ones lack.

How much of each layer its first depthwise separable terms hold (PW+DW, Guo et al. 2018), in four
networks trained by others on four kinds of data, beside random weights of the same shapes; what one
term can represent; and the filters themselves. Weights alone: no data, no training.

    python -m experiments.questions.why.run --output runs/why

Ten seconds on two cores, and a download of 90 MB the first time. Expect one term of nine to hold at least
half of every convolution of VGG16, where it holds a sixth of random weights. ``table.py`` renders the
figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from decompose.utils.progress import track
from experiments.common.records import keep, publish
from experiments.questions.why.filters import draw_filters
from experiments.questions.why.one_term import best_term, draw_terms, examples
from experiments.questions.why.spectra import draw_spectra, spectra
from experiments.questions.why.table import summarize
from experiments.questions.why.weights import (
    SOURCES,
    VGG16,
    VGG16_TRAINED_ON,
    read_convs,
    vgg16_convs,
)

DRAWN = "conv1_2", "conv3_1"
"""Layers of VGG16 whose filters are drawn."""


def main(
    output: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path("runs/why"),
) -> None:
    """Take the networks apart, and write it all down."""
    output.mkdir(parents=True, exist_ok=True)
    vgg16 = vgg16_convs()
    convs = {VGG16: vgg16}
    for source in track(SOURCES, "reading networks"):
        convs[source.network] = read_convs(source)
    trained_on = {VGG16: VGG16_TRAINED_ON} | {s.network: s.trained_on for s in SOURCES}
    layers = {name: spectra(found) for name, found in track(list(convs.items()), "decomposing")}
    kernels = examples(vgg16["conv1_1"])
    record = {
        "networks": {
            name: {"trained_on": trained_on[name], "layers": found}
            for name, found in layers.items()
        },
        "one_term": {title: best_term(kernel).error for title, kernel in kernels.items()},
    }
    keep(record, output / "results.json")
    draw_spectra(layers, output / "spectra.png")
    draw_terms(kernels, output / "one_term.png")
    drawn = {f"VGG16, {name}": vgg16[name].weight.detach() for name in DRAWN}
    generator = torch.Generator().manual_seed(0)
    shape = vgg16[DRAWN[-1]].weight.shape
    drawn["random weights, same shape"] = torch.randn(shape, generator=generator)
    draw_filters(drawn, output / "filters.png")
    publish(summarize(record), output, num_shown=2)


if __name__ == "__main__":
    typer.run(main)
