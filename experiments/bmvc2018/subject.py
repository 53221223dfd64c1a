"""The network that is made smaller, and the pictures that tell what it loses by it.

With ImageNet, torchvision's VGG16 as it is. Without, VGG16's real convolutions with a linear
classifier on their pooled features, fitted to pictures that install from a package. On ten classes
the top-5 accuracy is nearly full, so there the drop is one of top-1 accuracy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from config import FASHION, Setting
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import decompose
from decompose.algebra import Conv
from decompose.architectures import OFFLINE_VGG16, Architecture
from decompose.data import digits, fashion_mnist, labelled, picture_folder
from decompose.inputs import Images
from decompose.layers import count_macs, evaluating, find_layers, trace_shapes
from decompose.modules import to_conv
from decompose.pictures import Pictures, default_workers
from decompose.progress import track
from decompose.vgg16 import vgg16_features

IMAGENET_VGG16 = "torchvision:vgg16,weights=IMAGENET1K_V1"

FULLY_CONNECTED_MACS = 25_088 * 4096 + 4096 * 4096 + 4096 * 1000
"""Of VGG16 on ImageNet, which no method here changes."""

_BATCH = 100

Labelled = Iterable[tuple[Tensor, Tensor]]
"""Batches of pictures ``(batch, 3, H, W)`` and labels ``(batch,)``."""


@dataclass
class Subject:
    """A classifier, and the data of an experiment.

    Attributes:
        setting: what is measured.
        network: with VGG16's convolutions.
        calibration: unlabelled pictures.
        subset: labelled pictures of the search.
        confirmation: labelled pictures for the outcome.
    """

    setting: Setting
    network: nn.Module
    calibration: Images
    subset: Labelled
    confirmation: Labelled

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


def accuracy(network: nn.Module, pictures: Labelled) -> dict[str, float]:
    """Top-1 and top-5 accuracy, as shares."""
    device = next(network.parameters()).device
    hits, count = torch.zeros(5), 0
    with evaluating(network):
        for images, labels in track(pictures, "evaluating"):
            ranked = network(images.to(device)).topk(5).indices.cpu()
            hits += (ranked == labels.unsqueeze(1)).float().cumsum(1).sum(0)
            count += len(labels)
    return {"top1": float(hits[0]) / count, "top5": float(hits[4]) / count}


def offline(setting: Setting) -> Subject:
    """VGG16's convolutions with a linear classifier of their features.

    Args:
        setting: ``FASHION`` or ``DIGITS``.
    """
    if setting.data == FASHION.data:
        (training, known), (test, asked) = (fashion_mnist(train=train) for train in (True, False))
    else:
        pictures, labels = digits(setting.size)
        order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
        chosen = order[: setting.num_confirmed], order[setting.num_confirmed :]
        (test, asked), (training, known) = ((pictures[c], labels[c]) for c in chosen)
    calibration = training[-setting.num_calibrated :]
    training, known = (
        part[: -setting.num_calibrated][: setting.num_fitted] for part in (training, known)
    )
    features = decompose.load(OFFLINE_VGG16)
    body = nn.Sequential(
        OrderedDict(features=features, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    ).eval()
    body.append(_linear_classifier(body, _prepared(training, setting.size), known))
    test = _prepared(test, setting.size)
    return Subject(
        setting,
        body,
        _prepared(calibration, setting.size),
        _batches(test[: setting.num_subset], asked[: setting.num_subset]),
        _batches(test[: setting.num_confirmed], asked[: setting.num_confirmed]),
    )


def imagenet(setting: Setting, data: Path, calibrate: Path, device: str) -> Subject:
    """VGG16 as torchvision has it.

    Args:
        setting: ``IMAGENET``.
        data: the validation set, as ``data.labelled`` takes it.
        calibrate: a folder of unlabelled pictures, of the training set.
        device: where the networks run.
    """
    transform = Architecture.parse(IMAGENET_VGG16).transform()
    pictures = labelled(data, transform)
    some = pictures.subset(min(setting.num_subset, len(pictures)))
    unlabelled = picture_folder(calibrate, transform, setting.num_calibrated)
    network = decompose.load(IMAGENET_VGG16).to(device)
    return Subject(
        setting, network, _Folder(unlabelled), _LabelledFolder(some), _LabelledFolder(pictures)
    )


class _Folder:
    """Pictures of a folder, batch after batch, as often as need be."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self._pictures.batches(_BATCH, default_workers()):
            yield batch.images


class _LabelledFolder(_Folder):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        for batch in self._pictures.batches(_BATCH, default_workers()):
            yield batch.images, batch.labels


def _batches(images: Tensor, labels: Tensor) -> Labelled:
    return DataLoader(TensorDataset(images, labels), _BATCH)


def _prepared(images: Tensor, size: int) -> Tensor:
    """Pictures in [0, 1] as VGG16 takes them, ``(N, 3, size, size)``; smaller ones with a margin."""
    preset = Architecture.parse(OFFLINE_VGG16).transform()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preset.mean, preset.std))  # type: ignore[attr-defined]
    margin = size - images.shape[-1]
    before, after = margin // 2, margin - margin // 2
    return (F.pad(images, (before, after, before, after)).expand(-1, 3, -1, -1) - mean) / std


def _linear_classifier(body: nn.Module, images: Tensor, labels: Tensor) -> nn.Linear:
    """A ridge regression of the classes on what the body makes of pictures."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with evaluating(body):
        parts = track(images.split(_BATCH), "features for the classifier")
        seen = torch.cat([body(part) for part in parts]).numpy()
    fitted = make_pipeline(StandardScaler(), RidgeClassifier(alpha=0.1 * len(seen)))
    scaler, regression = (step for _, step in fitted.fit(seen, labels.numpy()).steps)
    weight = regression.coef_ / scaler.scale_
    classifier = nn.Linear(weight.shape[1], len(weight))
    classifier.weight.data.copy_(torch.from_numpy(weight))
    classifier.bias.data.copy_(torch.from_numpy(regression.intercept_ - weight @ scaler.mean_))
    return classifier
