"""VGG16's real convolutions with a quarter of their MACs, repaired on a dozen photographs alone.

The classifier knows Fashion-MNIST; what the compressed network is fitted on are photographs that have
nothing to do with it, without labels, cut into tiles of the size that the network sees.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import center_crop

import decompose
from decompose.data.bundled import fashion_mnist_images, photographs
from decompose.evaluation.accuracy import evaluate
from decompose.layers.costs import count_macs, trace_shapes
from decompose.models.architectures import OFFLINE_VGG16, Architecture
from decompose.training.blockwise import reconstruct_
from experiments.common.classifiers import BATCH, prepared, preprocessing, vgg16_classifier
from experiments.finetune.config import Setting

SHARE = 1 / 4
STEPS = 100
"""Of blockwise reconstruction, for each layer, at most."""

SIZE = 32
"""Of Fashion-MNIST's pictures with a margin, and of tiles, in pixels."""


def measure(setting: Setting) -> dict[str, Any]:
    """Accuracy of the classifier, and with fewer MACs in each state before any label is seen."""
    fitted = fashion_mnist_images(preprocessing(SIZE, 28), train=True).subset(setting.num_fitted)
    labels = torch.tensor([label for _, label in fitted.samples])
    original = vgg16_classifier(prepared(fitted), labels)
    photographs = halved()
    images = tiles(photographs, SIZE)[: setting.num_unlabelled]
    example = images[:1]
    plan = decompose.plan(original, example, macs=SHARE, calibrate=images)
    networks = {"original": original, "truncated": decompose.apply(plan, original)}
    networks["repaired"] = decompose.apply(plan, original, calibrate=images)
    networks["blockwise"] = copy.deepcopy(networks["repaired"])
    reconstruct_(networks["blockwise"], original, images, steps=min(STEPS, setting.steps))
    shapes = trace_shapes(original, example)
    return {
        "num_photographs": len(photographs),
        "num_tiles": len(images),
        "size": SIZE,
        "macs": {
            name: sum(count_macs(network, shapes).values()) for name, network in networks.items()
        },
        "accuracies": _accuracies(networks, setting),
    }


def halved() -> Tensor:
    """The photographs that come with packages, at half of VGG16's size: ``(12, 3, 112, 112)``."""
    _, images = photographs(Architecture.parse(OFFLINE_VGG16).transform())
    return F.avg_pool2d(images, 2)


def tiles(images: Tensor, size: int) -> Tensor:
    """Squares side by side from the middle of images, in random order, ``(N, C, size, size)``.

    Args:
        images: ``(batch, C, H, W)``.
        size: height and width, in pixels, of each.
    """
    height, width = (side // size * size for side in images.shape[-2:])
    strips = center_crop(images, [height, width]).unfold(2, size, size).unfold(3, size, size)
    squares = strips.movedim(1, 3).flatten(0, 2)
    order = torch.randperm(len(squares), generator=torch.Generator().manual_seed(0))
    return squares[order].contiguous()


def _accuracies(networks: dict[str, nn.Module], setting: Setting) -> dict[str, float]:
    images = fashion_mnist_images(preprocessing(SIZE, 28), train=False).subset(setting.num_test)
    found = evaluate(networks, images, batch_size=BATCH).accuracies
    return {name: accuracy.top1.value for name, accuracy in found.items()}
