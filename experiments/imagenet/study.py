"""One classifier of ImageNet made smaller, measured: what it keeps of its top-1 accuracy."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import decompose
from decompose.data.folders import labelled_images
from decompose.data.imagenet import with_imagenet_labels
from decompose.data.images import ImageDataset
from decompose.data.matched_inputs import matched_inputs
from decompose.data.synthetic import are_cheap, num_to_repair_on
from decompose.evaluation.confidence_intervals import paired_difference, share
from decompose.layers.forward import evaluating
from decompose.utils.progress import track
from experiments.budget.peer import executed_macs
from experiments.cifar10.peers import whitened_svd
from experiments.imagenet.networks import Subject

NUM_CALIBRATED = 64
WAYS: Mapping[str, str] = {
    "free": "decompose, no images",
    "images64": f"decompose, {NUM_CALIBRATED} images",
    "svd64": f"activation-aware SVD, {NUM_CALIBRATED} images",
}
"""Titles of the ways that are compared."""

_BATCH = 20


class Study:
    """A trained classifier, the images to plan and repair on, and others to measure on.

    Args:
        subject: the classifier; left as it was.
        data: folder of labelled images, in ImageNet's synset folders or torchvision's layout.
        cache: folder for what the original makes of the images.
        seed: of the draw of unlabelled images.
    """

    def __init__(self, subject: Subject, data: Path, cache: Path, seed: int = 0) -> None:
        self.network, self.example = subject.network, subject.example
        images = with_imagenet_labels(labelled_images(data, subject.transform))
        drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
        self._calibrating = images.chosen(drawn[:NUM_CALIBRATED])
        self.test = images.chosen(sorted(drawn[NUM_CALIBRATED:]))
        self.macs = executed_macs(self.network, self.example)
        path = cache / "hits.npy"
        if path.exists() and len(known := np.load(path)) == len(self.test):
            self.hits = known
        else:
            self.hits = hits(self.network, self.test, "the original's accuracy")
            np.save(path, self.hits)

    def original(self) -> dict[str, Any]:
        """Cost and accuracy of the original."""
        return {
            "macs": self.macs,
            "accuracy": share(self.hits)._asdict(),
            "num_test": len(self.hits),
        }

    def measure(self, way: str, share_of_macs: float) -> dict[str, Any]:
        """Make a smaller classifier one way, and measure it.

        Args:
            way: of ``WAYS``.
            share_of_macs: to keep.
        """
        makers: Mapping[str, Callable[[float], nn.Module]] = {
            "free": self._without_images,
            "images64": self._on_images,
            "svd64": lambda part: whitened_svd(self.network, self._calibration(), part),
        }
        started = time.perf_counter()
        small = makers[way](share_of_macs)
        seconds = time.perf_counter() - started
        found = hits(small, self.test, f"{WAYS[way]}, {share_of_macs:g}")
        return {
            "macs": executed_macs(small, self.example),
            "accuracy": share(found)._asdict(),
            "change": paired_difference(self.hits, found)._asdict(),
            "seconds": seconds,
        }

    def _calibration(self) -> Tensor:
        """The images to plan and repair on, ``(64, 3, H, W)``."""
        batches = self._calibrating.batches(_BATCH)
        return torch.cat([batch.images for batch in batches])

    def _on_images(self, share_of_macs: float) -> nn.Module:
        images = self._calibration()
        return self._decomposed(share_of_macs, images, images)

    def _without_images(self, share_of_macs: float) -> nn.Module:
        """As ``decompose compress`` does it."""
        num = num_to_repair_on(self.example)
        images = matched_inputs(self.example, self.network, num=num)
        planned_on = images if are_cheap(self.example) else None
        return self._decomposed(share_of_macs, planned_on, images)

    def _decomposed(
        self, share_of_macs: float, planned_on: Tensor | None, repaired_on: Tensor
    ) -> nn.Module:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="left as truncated")
            plan = decompose.plan(
                self.network, self.example, macs=share_of_macs, calibrate=planned_on
            )
            return decompose.apply(plan, self.network, calibrate=repaired_on)


def hits(network: nn.Module, images: ImageDataset, doing: str) -> np.ndarray:
    """Whether the class of each image has the highest score, ``(N,)`` bool."""
    network = network.eval()
    found = np.zeros(len(images), bool)
    batches = images.batches(_BATCH)
    with evaluating(network):
        for batch in track(batches, doing, -(-len(images) // _BATCH)):
            right = network(batch.images).argmax(1) == batch.labels
            found[batch.indices.numpy()] = right.numpy()
    return found
