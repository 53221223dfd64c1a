"""The network that is made smaller, and the images that its loss is measured on.

With ImageNet, torchvision's VGG16 as it is. Without, VGG16's real convolutions with a linear
classifier on their pooled features, fitted to images that install from a package. On ten classes
the top-5 accuracy is nearly full, so there the drop is one of top-1 accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

import decompose
from decompose.algebra import Conv
from decompose.data.bundled import digits, fashion_mnist_images, images_in_memory
from decompose.data.folders import image_folder, labelled_images
from decompose.data.images import ImageDataset, default_workers
from decompose.evaluation.accuracy import evaluate
from decompose.layers.costs import count_macs, trace_shapes
from decompose.layers.discovery import find_layers
from decompose.layers.modules import to_conv
from decompose.models.architectures import Architecture
from decompose.models.preprocessing import Transform
from decompose.models.vgg16 import vgg16_features
from decompose.utils.batches import Batches
from experiments.bmvc2018.config import FASHION, Setting
from experiments.common.classifiers import BATCH, prepared, preprocessing, vgg16_classifier

IMAGENET_VGG16 = "torchvision:vgg16,weights=IMAGENET1K_V1"

FULLY_CONNECTED_MACS = 25_088 * 4096 + 4096 * 4096 + 4096 * 1000
"""Of VGG16 on ImageNet, which no method here changes."""


@dataclass
class Subject:
    """A classifier, and the data of an experiment.

    Attributes:
        setting: what is measured.
        network: with VGG16's convolutions.
        calibration: unlabelled images.
        training: labelled images to finetune on; ``None`` where there are none.
        augment: the preprocessing to finetune in; ``None`` for the usual cuts and mirror images.
        subset: labelled images of the search.
        confirmation: labelled images for the outcome.
    """

    setting: Setting
    network: nn.Module
    calibration: Batches
    training: ImageDataset | None
    augment: Transform | None
    subset: ImageDataset
    confirmation: ImageDataset

    @cached_property
    def layers(self) -> dict[str, str]:
        """Full names of the convolutions by the paper's."""
        papers = [n for n, m in vgg16_features().named_children() if isinstance(m, nn.Conv2d)]
        own = [n for n, m in find_layers(self.network).items() if not isinstance(m, nn.Linear)]
        return dict(zip(papers, own, strict=True))

    @cached_property
    def convs(self) -> dict[str, Conv]:
        """The convolutions by the paper's names."""
        return {
            name: to_conv(self.network.get_submodule(own))  # type: ignore[arg-type]
            for name, own in self.layers.items()
        }

    @cached_property
    def _shapes(self) -> dict[str, list[tuple[int, ...]]]:
        shapes = trace_shapes(self.network, torch.zeros(1, 3, 224, 224))
        return {name: shapes[name] for name in self.layers.values()}

    def macs(self, network: nn.Module) -> int:
        """MACs at 224×224 with VGG16's fully connected layers, as the paper counts."""
        counted = count_macs(network, self._shapes)
        return sum(counted[name] for name in self.layers.values()) + FULLY_CONNECTED_MACS


def accuracy(network: nn.Module, images: ImageDataset) -> dict[str, float]:
    """Top-1 and top-5 accuracy, as shares."""
    device = next(network.parameters()).device
    found = evaluate(
        {"network": network}, images, batch_size=BATCH, workers=default_workers(), device=device
    ).accuracies["network"]
    assert found.top5 is not None
    return {"top1": found.top1.value, "top5": found.top5.value}


def offline(setting: Setting) -> Subject:
    """VGG16's convolutions with a linear classifier of their features.

    Args:
        setting: ``FASHION`` or ``DIGITS``.
    """
    if setting.data == FASHION.data:
        transform = preprocessing(setting.size, 28)
        training, test = (fashion_mnist_images(transform, train=train) for train in (True, False))
    else:
        every = images_in_memory(*digits(setting.size), preprocessing(setting.size, setting.size))
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist()
        test, training = (
            every.chosen(places)
            for places in (order[: setting.num_confirmed], order[setting.num_confirmed :])
        )
    most = len(training) - setting.num_calibrated
    calibration = training.chosen(range(most, len(training)))
    training = training.chosen(range(most))
    fitted = training.chosen(range(min(setting.num_fitted, most)))
    labels = torch.tensor([label for _, label in fitted.samples])
    return Subject(
        setting,
        vgg16_classifier(prepared(fitted), labels),
        prepared(calibration),
        training,
        # Garments and digits fill their images: nothing is to be cut off.
        training.transforms[0],
        test.chosen(range(setting.num_subset)),
        test.chosen(range(setting.num_confirmed)),
    )


def imagenet(
    setting: Setting, data: Path, calibrate: Path, train: Path | None, device: str
) -> Subject:
    """VGG16 as torchvision has it.

    Args:
        setting: ``IMAGENET`` or ``IMAGENET_SMALL``.
        data: the validation set, as ``data.labelled_images`` takes it.
        calibrate: a folder of unlabelled images, of the training set.
        train: the training set, to finetune on, likewise.
        device: where the networks run.
    """
    transform = Architecture.parse(IMAGENET_VGG16).transform()
    images = labelled_images(data, transform)
    most, few = setting.num_confirmed, setting.num_subset
    confirmation = images.subset(most) if most < len(images) else images
    some = confirmation.subset(min(few, len(confirmation)))
    unlabelled = image_folder(calibrate, transform, setting.num_calibrated)
    training = None if train is None else labelled_images(train, transform, "train")
    network = decompose.load(IMAGENET_VGG16).to(device)
    return Subject(setting, network, _Folder(unlabelled), training, None, some, confirmation)


class _Folder:
    """Images of a folder, batch after batch, as often as need be."""

    def __init__(self, images: ImageDataset) -> None:
        self._images = images

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self._images.batches(BATCH, default_workers()):
            yield batch.images
