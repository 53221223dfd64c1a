"""He et al.'s residual networks for CIFAR-10 (arXiv 1512.03385, section 4.2), with published weights.

A 3×3 stem of 16 channels, three stages of 16, 32 and 64 channels with n basic blocks each, 6 n + 2
layers in all; shortcuts of type A take every second pixel and add channels of zeros; global average
pooling and a linear classifier. The weights are those of github.com/akamaster/pytorch_resnet_cifar10
(BSD-2), folder ``pretrained_models``: 91.73 % (ResNet-20) and 93.39 % (ResNet-56) of the test images.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decompose.utils.errors import DecomposeError

NUM_CLASSES = 10
_WIDTHS = (16, 32, 64)


class PaddedShortcut(nn.Module):
    """Shortcut of type A: every second pixel, and channels of zeros on both sides.

    Args:
        num_added: channels of zeros, half of them before the others.
    """

    def __init__(self, num_added: int) -> None:
        super().__init__()
        self.before, self.after = num_added // 2, num_added - num_added // 2

    def forward(self, x: Tensor) -> Tensor:
        """Shorten ``(batch, C, H, W)`` to ``(batch, C + num_added, H / 2, W / 2)``."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm around a shortcut.

    Args:
        in_channels: read.
        out_channels: written.
        stride: of the first convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Identity() if stride == 1 else PaddedShortcut(out_channels - in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on ``(batch, in_channels, H, W)``."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """A residual network from ``(batch, 3, 32, 32)`` to ``(batch, 10)``.

    Args:
        depth: number of layers with weights, 6 n + 2.

    Raises:
        DecomposeError: the depth is another number.
    """

    def __init__(self, depth: int) -> None:
        super().__init__()
        num_blocks, rest = divmod(depth - 2, 6)
        if rest or num_blocks < 1:
            raise DecomposeError(f"depth {depth}: these networks have 6 n + 2 layers (20, 56 ...)")
        stem, *_ = _WIDTHS
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1, self.layer2, self.layer3 = (
            _stage(before, width, num_blocks)
            for before, width in zip((stem, *_WIDTHS), _WIDTHS, strict=False)
        )
        self.linear = nn.Linear(_WIDTHS[-1], NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Score the ten classes."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def load_model(folder: Path, depth: int) -> CifarResNet:
    """Load a trained network, in evaluation mode.

    Args:
        folder: that holds ``resnet{depth}-XXXXXXXX.th`` as published.
        depth: 20, 32, 44, 56 or 110.

    Raises:
        DecomposeError: the folder holds no such file, or several.
    """
    found = sorted(folder.glob(f"resnet{depth}-*.th"))
    if len(found) != 1:
        raise DecomposeError(
            f"{folder}: holds {len(found)} files resnet{depth}-*.th, not one; they are in "
            "pretrained_models of github.com/akamaster/pytorch_resnet_cifar10"
        )
    state = torch.load(found[0], map_location="cpu", weights_only=True)["state_dict"]
    network = CifarResNet(depth)
    network.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    return network.eval()


def _stage(in_channels: int, width: int, num_blocks: int) -> nn.Sequential:
    first = BasicBlock(in_channels, width, 1 if in_channels == width else 2)
    return nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(num_blocks - 1)))
