"""A classifier without a hub: VGG16's real convolutions, and a linear classifier fitted here."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

import decompose
from decompose.data.images import ImageDataset
from decompose.layers.forward import evaluating
from decompose.models.architectures import OFFLINE_VGG16, Architecture
from decompose.models.preprocessing import Transform
from decompose.utils.progress import track

BATCH = 100


def vgg16_classifier(images: Tensor, labels: Tensor) -> nn.Module:
    """VGG16's convolutions with a ridge regression of classes on their pooled features.

    Args:
        images: to fit it on, in its preprocessing, ``(N, 3, H, W)``.
        labels: their classes, ``(N,)``, int64.

    Returns:
        A network in evaluation mode, from ``(batch, 3, H, W)`` to ``(batch, classes)``.
    """
    features = decompose.load(OFFLINE_VGG16)
    body = nn.Sequential(
        OrderedDict(features=features, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    ).eval()
    body.append(_linear_classifier(body, images, labels))
    return body


def prepared(dataset: ImageDataset) -> Tensor:
    """Images that are few enough for memory, ``(N, 3, H, W)``."""
    return torch.cat([batch.images for batch in dataset.batches(BATCH)])


def preprocessing(size: int, picture_size: int) -> Transform:
    """VGG16's, with a margin around smaller images.

    Args:
        size: height and width to give images, in pixels.
        picture_size: what they have, no more.
    """
    preset: Any = Architecture.parse(OFFLINE_VGG16).transform()
    margin = size - picture_size
    before, after = margin // 2, margin - margin // 2
    return v2.Compose(
        [
            v2.Pad([before, before, after, after]),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preset.mean, preset.std),
        ]
    )


def _linear_classifier(body: nn.Module, images: Tensor, labels: Tensor) -> nn.Linear:
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with evaluating(body):
        parts = track(images.split(BATCH), "features for the classifier")
        seen = torch.cat([body(part) for part in parts]).numpy()
    fitted = make_pipeline(StandardScaler(), RidgeClassifier(alpha=0.1 * len(seen)))
    scaler, regression = (step for _, step in fitted.fit(seen, labels.numpy()).steps)
    weight = regression.coef_ / scaler.scale_
    classifier = nn.Linear(weight.shape[1], len(weight))
    classifier.weight.data.copy_(torch.from_numpy(weight))
    classifier.bias.data.copy_(torch.from_numpy(regression.intercept_ - weight @ scaler.mean_))
    return classifier
