"""A small convolutional classifier over any number of axes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

_LAYERS = {
    1: (nn.Conv1d, nn.BatchNorm1d, nn.MaxPool1d, nn.AdaptiveAvgPool1d),
    2: (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d),
    3: (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d, nn.AdaptiveAvgPool3d),
}


def classifier(
    num_axes: int, widths: Sequence[int], kernel_size: int, num_classes: int
) -> nn.Sequential:
    """A stack of convolutions, each with normalisation, ReLU and pooling by 2.

    Args:
        num_axes: axes that the kernels move over, 1 to 3.
        widths: output channels of the convolutions.
        kernel_size: taps along each axis.
        num_classes: number of classes.

    Returns:
        A network with random weights, ``(batch, 1, ...)`` to ``(batch, num_classes)``.
    """
    conv, norm, pool, average = _LAYERS[num_axes]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    in_channels = 1
    for number, width in enumerate(widths, start=1):
        padding = kernel_size // 2
        layers[f"conv{number}"] = conv(in_channels, width, kernel_size, padding=padding, bias=False)
        layers[f"norm{number}"] = norm(width)
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"pool{number}"] = pool(2) if number < len(widths) else average(1)
        in_channels = width
    layers["flatten"] = nn.Flatten()
    layers["classify"] = nn.Linear(in_channels, num_classes)
    return nn.Sequential(layers)
