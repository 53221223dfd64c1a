"""What one depthwise separable term can represent, and what it cannot.

A term is one pattern over space times one weight a channel: *what* it looks for is the same in every
channel, only *how much* differs. The best term of a kernel is its first singular pair, and what it
loses is ``1 - sigma_1^2 / sum sigma^2``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from decompose.algebra import Conv
from decompose.evaluation.plots import save_figure
from experiments.common.plots import show_weights, write_sign

SIZE = 5
"""Taps along each axis of the kernels made here."""

COLOURS = "red", "green", "blue"


class Term(NamedTuple):
    """The best term of a kernel ``(I, k, k)``.

    Attributes:
        weights: one a channel, ``(I,)``.
        pattern: over space, ``(k, k)``.
        error: relative squared error of their product.
    """

    weights: Tensor
    pattern: Tensor
    error: float

    @property
    def kernel(self) -> Tensor:
        """Their product, ``(I, k, k)``."""
        return self.weights[:, None, None] * self.pattern


def best_term(kernel: Tensor) -> Term:
    """The term that lies nearest to a kernel ``(I, k, k)``."""
    u, sigma, vt = torch.linalg.svd(kernel.double().flatten(1), full_matrices=False)
    # A singular pair is known up to its sign: let the largest weight be positive.
    sign = u[:, 0][u[:, 0].abs().argmax()].sign()
    error = 1 - float(sigma[0] ** 2 / sigma.square().sum())
    return Term(sign * sigma[0] * u[:, 0], sign * vt[0].view(kernel.shape[1:]), error)


def examples(first_layer: Conv) -> dict[str, Tensor]:
    """Kernels over colour images, ``(3, k, k)``, by what they look for.

    Args:
        first_layer: a trained convolution over colour images, whose typical kernel is added: the
            one that one term represents with the median error.
    """
    across = torch.linspace(-1, 1, SIZE).expand(SIZE, SIZE)
    edge, nothing = across.sign() * (1 - across.abs() / 2), torch.zeros(SIZE, SIZE)
    spots = [torch.exp(-16 * ((across - x) ** 2 + across.T**2)) for x in (-0.5, 0, 0.5)]
    kernels = sorted(first_layer.weight, key=lambda kernel: best_term(kernel).error)
    return {
        "an edge in brightness": torch.stack([edge, edge, edge]),
        "an edge from green to red": torch.stack([edge, -edge, nothing]),
        "an edge in red, a weaker one across it in green": torch.stack(
            [edge, 0.8 * edge.T, nothing]
        ),
        "a spot in each colour, side by side": torch.stack(spots),
        "VGG16's conv1_1, median channel": kernels[len(kernels) // 2],
    }


def draw_terms(kernels: Mapping[str, Tensor], path: Path) -> None:
    """Draw a row a kernel: its channels, the pattern and weights of its best term, their product."""
    figure = Figure(figsize=(9.6, 1.25 * len(kernels) + 0.6), layout="constrained")
    columns = [1, 1, 1, 0.45, 1, 0.35, 0.45, 0.45, 1, 1, 1, 1.1]
    # The last, empty row leaves room for the text below the last kernel.
    heights = [*(1 for _ in kernels), 0.12]
    grid = figure.add_gridspec(
        len(heights), len(columns), width_ratios=columns, height_ratios=heights, hspace=0.3
    )
    for row, (title, kernel) in enumerate(kernels.items()):
        term = best_term(kernel)
        axes = [figure.add_subplot(grid[row, column]) for column in range(len(columns))]
        limit = float(kernel.abs().max())
        for channel in range(len(kernel)):
            show_weights(axes[channel], kernel[channel], limit)
            show_weights(axes[8 + channel], term.kernel[channel], limit)
            if row == 0:
                axes[channel].set_title(COLOURS[channel], fontsize=9)
                axes[8 + channel].set_title(COLOURS[channel], fontsize=9)
        below = axes[0].text(0, -0.06, title, transform=axes[0].transAxes, va="top", fontsize=9)
        below.set_in_layout(False)
        write_sign(axes[3], "≈")
        show_weights(axes[4], term.pattern, float(term.pattern.abs().max()))
        write_sign(axes[5], "×")
        show_weights(axes[6], term.weights[:, None], float(term.weights.abs().max()))
        write_sign(axes[7], "=")
        write_sign(axes[11], f"{term.error:.0%}\nlost")
        if row == 0:
            axes[4].set_title("pattern", fontsize=9)
            axes[6].set_title("weights", fontsize=9)
    figure.suptitle(
        "Kernels over colour pictures, and the one term nearest to each "
        "(red: positive, blue: negative)",
        fontsize=11,
    )
    save_figure(figure, path, dpi=110)
