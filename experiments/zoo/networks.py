"""The networks of the zoo: whose they are, and on which inputs they run here.

Weights are random, since no hub is needed then; BatchNorm's statistics are those of synthetic inputs, so
that something passes. Two kinds of networks have no well-known name and are written here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

import decompose
from decompose.layers.batchnorm import reestimate_
from decompose.utils.batches import Example, InputBatches


class UNet(nn.Module):
    """An encoder and a decoder of transposed convolutions, joined at every size (Ronneberger et al. 2015).

    Args:
        widths: channels at each size, from the largest to the smallest.
        classes: maps that come out.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 256), classes: int = 2) -> None:
        super().__init__()
        pairs = list(zip((3, *widths[:-1]), widths, strict=True))
        self.down = nn.ModuleList(_twice(inputs, outputs) for inputs, outputs in pairs)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(wide, narrow, 2, stride=2) for narrow, wide in pairwise(widths)
        )
        self.join = nn.ModuleList(_twice(2 * width, width) for width in widths[:-1])
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 3, H, W)`` to ``(batch, classes, H, W)``; sizes are halved at every step."""
        kept = []
        for step in self.down:
            x = step(nn.functional.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        for up, join, skip in reversed(list(zip(self.up, self.join, kept[:-1], strict=True))):
            x = join(torch.cat([skip, up(x)], 1))
        return self.head(x)


def _twice(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [
            nn.Conv2d(width, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class SignalNet(nn.Sequential):
    """Raw sound to classes by 1-D convolutions, the first of them long (Dai et al. 2017, M11).

    Args:
        width: channels of the first layer.
        classes: scores that come out.
    """

    def __init__(self, width: int = 64, classes: int = 10) -> None:
        layers: list[nn.Module] = [
            nn.Conv1d(1, width, 80, stride=4),
            nn.BatchNorm1d(width),
            nn.ReLU(),
        ]
        inputs = width
        for stage, depth in enumerate((2, 2, 3, 2)):
            layers.append(nn.MaxPool1d(4))
            for _ in range(depth):
                outputs = width << stage
                layers += [
                    nn.Conv1d(inputs, outputs, 3, padding=1),
                    nn.BatchNorm1d(outputs),
                    nn.ReLU(),
                ]
                inputs = outputs
        super().__init__(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(inputs, classes))


@dataclass(frozen=True)
class Subject:
    """A network of the table.

    Attributes:
        source: its architecture's name, or what builds it.
        size: of one input, channels first.
        detects: whether it takes a list of images.
    """

    source: str | Callable[[], nn.Module]
    size: tuple[int, ...]
    detects: bool = False

    def build(self) -> tuple[nn.Module, Example]:
        """The network, and one input of zeros."""
        torch.manual_seed(0)
        blank = torch.zeros(1, *self.size)
        example = ([blank[0]],) if self.detects else blank
        network = decompose.load(self.source) if isinstance(self.source, str) else self.source()
        awaken_(network, example)
        return network.eval(), example


def awaken_(network: nn.Module, example: Example) -> None:
    """Let random weights pass something on: fit normalisations to synthetic inputs, layer scales to 1."""
    for name, parameter in network.named_parameters():
        if name.endswith(("layer_scale", "gamma", "layer_scale.gamma")):
            nn.init.ones_(parameter)
    reestimate_(
        network,
        InputBatches(decompose.synthetic_inputs(example, network, num=4), network).batches(4),
    )


def _named(name: str, options: str = "") -> str:
    return f"torchvision:{name},weights=none{options}"


_DETECTOR = ",min_size=256,max_size=320"

SUBJECTS = {
    "ResNet-18": Subject(_named("resnet18"), (3, 224, 224)),
    "ResNet-50": Subject(_named("resnet50"), (3, 160, 160)),
    "DenseNet-121": Subject(_named("densenet121"), (3, 160, 160)),
    "AlexNet": Subject(_named("alexnet"), (3, 224, 224)),
    "SqueezeNet 1.1": Subject(_named("squeezenet1_1"), (3, 224, 224)),
    "Inception v3": Subject(_named("inception_v3"), (3, 160, 160)),
    "MobileNet v2": Subject(_named("mobilenet_v2"), (3, 224, 224)),
    "ConvNeXt-T": Subject("timm:convnext_tiny,weights=none", (3, 160, 160)),
    "EfficientNet-B0": Subject(_named("efficientnet_b0"), (3, 224, 224)),
    "U-Net": Subject(UNet, (3, 128, 128)),
    "R(2+1)D-18": Subject(_named("r2plus1d_18"), (3, 8, 56, 56)),
    "3-D ResNet-18": Subject(_named("r3d_18"), (3, 8, 56, 56)),
    "1-D, M11": Subject(SignalNet, (1, 8000)),
    "FCN, ResNet-50": Subject(_named("fcn_resnet50"), (3, 128, 128)),
    "DeepLab v3, ResNet-50": Subject(_named("deeplabv3_resnet50"), (3, 128, 128)),
    "SSD300, VGG16": Subject(_named("ssd300_vgg16"), (3, 300, 300), True),
    "RetinaNet, ResNet-50": Subject(
        _named("retinanet_resnet50_fpn", _DETECTOR), (3, 256, 256), True
    ),
    "Faster R-CNN, ResNet-50": Subject(
        _named("fasterrcnn_resnet50_fpn", _DETECTOR), (3, 256, 256), True
    ),
}
