"""A linear probe: how well VGG16's features separate handwritten digits, before and after.

scikit-learn's 1,797 digits, half to fit a logistic regression and half to score it. The digits
are no ImageNet: they show how far useful features moved, not what a classifier loses there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torchvision.models import VGG16_Weights
from torchvision.transforms.functional import normalize

from decompose.data.bundled import digits
from decompose.layers.forward import evaluating
from decompose.utils.batches import in_channels_last
from decompose.utils.progress import track

PIXELS = 64
BATCH_SIZE = 16


def classify_digits(networks: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Accuracy of linear classifiers on the features of each network.

    Args:
        networks: by name; the first is the original, whose classifier all others are also tried
            with.

    Returns:
        For each network ``same_classifier``, the accuracy of the classifier fitted on the
        original's features, and ``own_classifier``, of one fitted on its own; shares in [0, 1].
    """
    images, labels = digits(PIXELS)
    targets = labels.numpy()
    train, test = train_test_split(
        np.arange(len(targets)), test_size=0.5, random_state=0, stratify=targets
    )
    original = None
    accuracies = {}
    for name, network in networks.items():
        inputs = features(network, images, f"digits, {name}")
        own = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        own.fit(inputs[train], targets[train])
        original = original or own
        accuracies[name] = {
            "same_classifier": original.score(inputs[test], targets[test]),
            "own_classifier": own.score(inputs[test], targets[test]),
        }
    return {"num_test": len(test), "pixels": PIXELS, "accuracies": accuracies}


def features(network: nn.Module, images: Tensor, description: str) -> np.ndarray:
    """Pool5 features of images in [0, 1], ``(N, 3, H, W)``, as ``(N, F)`` float32."""
    transform = VGG16_Weights.IMAGENET1K_FEATURES.transforms()
    batches = images.split(BATCH_SIZE)
    with evaluating(network):
        return np.concatenate(
            [
                network(in_channels_last(normalize(batch, transform.mean, transform.std)))
                .flatten(1)
                .numpy()
                for batch in track(batches, description)
            ]
        )
