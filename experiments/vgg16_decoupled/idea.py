"""Draw the idea: one output channel of a real convolution as a sum of depthwise separable terms.

    python -m experiments.vgg16_decoupled.idea idea.png

A few seconds. Each term is one column of pointwise weights times one depthwise kernel (Guo et al.
2018, PW+DW); of the 64 input channels of conv2_1 the eight with the largest kernels are shown.
"""

from __future__ import annotations

from pathlib import Path

import torch
import typer
from matplotlib.figure import Figure

import decompose
from decompose.evaluation.plots import save_figure
from decompose.models.architectures import OFFLINE_VGG16
from experiments.common.plots import show_weights, write_sign

LAYER, CHANNEL = "conv2_1", 3
SHOWN_INPUTS, SHOWN_TERMS = 8, 4


def main(output: Path) -> None:
    """Draw the image to a PNG file."""
    weight = decompose.load(OFFLINE_VGG16).get_parameter(f"{LAYER}.weight").detach()[CHANNEL]
    shown = weight.flatten(1).norm(dim=1).topk(SHOWN_INPUTS).indices.sort().values
    u, sigma, vt = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    shares = sigma.square().cumsum(0) / sigma.square().sum()
    pointwise = u[shown] * sigma
    sums = (pointwise[:, :SHOWN_TERMS] @ vt[:SHOWN_TERMS]).view(-1, 3, 3)
    limit = float(weight[shown].abs().max())

    figure = Figure(figsize=(10.5, 5.8))
    columns = [0.8, 0.5] + [0.4, 1.1, 0.5] * SHOWN_TERMS + [0.8]
    edges = {"left": 0.01, "right": 0.99, "top": 0.92, "bottom": 0.02}
    grid = figure.add_gridspec(
        SHOWN_INPUTS, len(columns), width_ratios=columns, wspace=0.1, hspace=0.1, **edges
    )
    for row in range(SHOWN_INPUTS):
        show_weights(figure.add_subplot(grid[row, 0]), weight[shown[row]], limit)
        show_weights(figure.add_subplot(grid[row, len(columns) - 1]), sums[row], limit)
    for term in range(SHOWN_TERMS):
        first = 2 + 3 * term
        write_sign(figure.add_subplot(grid[:, first - 1]), "=" if term == 0 else "+", 16)
        column = figure.add_subplot(grid[:, first])
        show_weights(column, pointwise[:, term : term + 1], float(pointwise.abs().max()))
        column.set_aspect("auto")
        kernel = figure.add_subplot(grid[3:5, first + 1])
        show_weights(kernel, vt[term].view(3, 3), float(vt.abs().max()))
        kernel.set_title(f"term {term + 1}", fontsize=10)
        kernel.set_xlabel(f"{shares[term]:.1%} held\nso far", fontsize=9)
    write_sign(figure.add_subplot(grid[:, len(columns) - 2]), "+ …\n\n≈", 16)
    figure.suptitle(
        f"VGG16, {LAYER}, output channel {CHANNEL}: kernels of eight of its inputs "
        f"= pointwise × depthwise + …  (right: the sum of {SHOWN_TERMS} terms)",
        fontsize=11,
    )
    save_figure(figure, output, dpi=110)
    print(f"Wrote {output}")


if __name__ == "__main__":
    typer.run(main)
