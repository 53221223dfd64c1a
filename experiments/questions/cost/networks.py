"""Small networks, regular and depthwise separable, and sizes at which their weights are equal.

A stem halves the image, then come two stages of convolutions, the second at half the size again with
twice the channels. A separable network is a regular one in which each of those convolutions is a
depthwise one followed by a pointwise one, with nothing in between: one term of a decomposition. Where a
convolution keeps the number of channels a shortcut goes round it, so that deep networks train as
well.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

from torch import Tensor, nn

from decompose.layers.costs import count_params

CLASSES = 10


@dataclass(frozen=True)
class Design:
    """The settings in which networks differ.

    Attributes:
        separable: whether its 3×3 convolutions, but for the stem, are depthwise separable.
        width: channels of the first stage; the second has twice as many.
        depth: convolutions a stage.
    """

    separable: bool
    width: int
    depth: int


class Block(nn.Module):
    """A convolution with its normalisation and ReLU, and a shortcut where the channels stay."""

    def __init__(self, in_channels: int, out_channels: int, *, separable: bool) -> None:
        super().__init__()
        self.conv = (separable_conv if separable else regular_conv)(in_channels, out_channels)
        self.norm = nn.BatchNorm2d(out_channels)
        self.keeps_channels = in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_channels, H, W)`` to ``(batch, out_channels, H, W)``."""
        y = self.norm(self.conv(x)).relu()
        return x + y if self.keeps_channels else y


def regular_conv(in_channels: int, out_channels: int) -> nn.Module:
    """A 3×3 convolution; the normalisation behind it has the bias."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)


def separable_conv(in_channels: int, out_channels: int) -> nn.Module:
    """A depthwise 3×3 and a pointwise convolution."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
    )


def build(design: Design) -> nn.Sequential:
    """The network with random weights, ``(batch, 1, 28, 28)`` to ``(batch, 10)``."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = nn.Conv2d(1, design.width, 3, stride=2, padding=1)
    channels = design.width
    for stage, width in enumerate((design.width, 2 * design.width), start=1):
        for position in range(1, design.depth + 1):
            layers[f"block{stage}_{position}"] = Block(channels, width, separable=design.separable)
            channels = width
        layers[f"pool{stage}"] = nn.MaxPool2d(2) if stage == 1 else nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classify"] = nn.Linear(channels, CLASSES)
    return nn.Sequential(layers)


def num_params(design: Design) -> int:
    """Parameters of the network."""
    return count_params(build(design))


def as_wide(design: Design, params: int) -> Design:
    """The design with the width that brings its parameters nearest to a number."""
    return _nearest(lambda width: replace(design, width=width), params)


def as_deep(design: Design, params: int) -> Design:
    """The design with the depth that brings its parameters nearest to a number."""
    return _nearest(lambda depth: replace(design, depth=depth), params)


def _nearest(design_of: Callable[[int], Design], params: int) -> Design:
    """The size whose parameters, which grow with it, come nearest to a number."""
    above = next(size for size in count(1) if num_params(design_of(size)) >= params)
    found = [design_of(size) for size in (above - 1, above) if size]
    return min(found, key=lambda design: abs(num_params(design) - params))
