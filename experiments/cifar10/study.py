"""One way to make a network smaller, measured: what it keeps of CIFAR-10's test accuracy."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

import decompose
from decompose.compression.statistics import Statistics
from decompose.data.images import default_workers
from decompose.data.matched_inputs import matched_inputs
from decompose.data.synthetic import num_to_repair_on
from decompose.evaluation.confidence_intervals import paired_difference, share
from decompose.layers.forward import evaluating
from decompose.training.finetuning import finetune
from decompose.training.recipe import Recipe
from decompose.utils.batches import in_channels_last
from decompose.utils.progress import track
from experiments.budget.peer import executed_macs
from experiments.cifar10.data import MEAN, SIZE, STD, Images
from experiments.cifar10.peers import uniform_tucker, whitened_svd
from experiments.cifar10.ways import HALF, WAYS, Way
from experiments.common.records import keep

_BATCH = 250


class Study:
    """A trained network, its images, and its accuracy.

    Args:
        network: the original; left as it was.
        train: images to plan, repair and train on; nothing is learnt from their labels but by
            finetuning.
        test: images to measure on.
        cache: file for what the original makes of the test images.
        seed: of the draw of unlabelled images.
    """

    def __init__(
        self, network: nn.Module, train: Images, test: Images, cache: Path, seed: int = 0
    ) -> None:
        self.network, self.train, self.test, self._seed = network, train, test, seed
        self.example = torch.zeros(1, 3, SIZE, SIZE)
        self.macs = executed_macs(network, self.example)
        if cache.exists() and len(known := np.load(cache)) == len(test):
            self.hits = known
        else:
            self.hits = hits(network, test, "the original's accuracy")
            np.save(cache, self.hits)
        self._statistics: dict[int, Statistics] = {}

    def calibration(self, num: int) -> Tensor:
        """Training images drawn at random, the same for one seed, ``(num, 3, 32, 32)``."""
        generator = torch.Generator().manual_seed(self._seed)
        drawn = torch.randperm(len(self.train), generator=generator)
        return self.train.prepared(drawn[:num])

    def original(self) -> dict[str, Any]:
        """Cost and accuracy of the original."""
        return {
            "macs": self.macs,
            "accuracy": share(self.hits)._asdict(),
            "num_test": len(self.hits),
        }

    def measure(
        self, name: str, share_of_macs: float, recipe: Recipe, folder: Path
    ) -> dict[str, Any]:
        """Make a smaller network one way, and measure it.

        Args:
            name: of ``WAYS``.
            share_of_macs: to keep.
            recipe: of finetuning.
            folder: for its checkpoints.
        """
        way = WAYS[name]
        if way.is_finetuned:
            small, seconds = self._finetuned(name, share_of_macs, recipe, folder)
        else:
            small, seconds = _timed(self._maker(name, share_of_macs, recipe, folder))
        found = hits(small, self.test, f"{way.title}, {share_of_macs:g}")
        change = paired_difference(self.hits, found)
        return {
            "macs": executed_macs(small, self.example),
            "accuracy": share(found)._asdict(),
            "change": change._asdict(),
            "seconds": seconds,
        } | (_settings(recipe) if way.is_finetuned else {})

    def _maker(
        self, name: str, share_of_macs: float, recipe: Recipe, folder: Path
    ) -> Callable[[], nn.Module]:
        """Prepare a way to make a smaller network: statistics and what it goes on from are made here."""
        way = WAYS[name]
        if name.startswith("svd"):
            images = self.calibration(way.num_images)
            return partial(whitened_svd, self.network, images, share_of_macs)
        if name == "tucker":
            return partial(uniform_tucker, self.network, self.example, share_of_macs)
        if name == "again":
            tuned, _ = self._finetuned("finetuned", HALF, recipe, folder)
            return partial(self._decomposed_again, tuned, share_of_macs, way)
        statistics = self._measured(way.num_images) if way.num_images else None
        return partial(self._decomposed, way, share_of_macs, statistics)

    def _decomposed_again(self, tuned: nn.Module, share_of_macs: float, way: Way) -> nn.Module:
        images = self.calibration(way.num_images)
        rest = share_of_macs * self.macs / executed_macs(tuned, self.example)
        plan = decompose.plan(tuned, self.example, macs=rest, calibrate=images)
        return decompose.apply(plan, tuned, calibrate=images)

    def _decomposed(
        self, way: Way, share_of_macs: float, statistics: Statistics | None
    ) -> nn.Module:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="left as truncated")
            images = (
                self.calibration(way.num_images)
                if way.num_images
                else matched_inputs(self.example, self.network, num=num_to_repair_on(self.example))
            )
            plan = decompose.plan(
                self.network, self.example, macs=share_of_macs, calibrate=statistics or images
            )
            return decompose.apply(plan, self.network, calibrate=images)

    def _measured(self, num: int) -> Statistics:
        """Statistics of a number of images, gathered once for all budgets."""
        if num not in self._statistics:
            images = self.calibration(num)
            self._statistics[num] = decompose.measure(self.network, self.example, images)
        return self._statistics[num]

    def _finetuned(
        self, name: str, share_of_macs: float, recipe: Recipe, folder: Path
    ) -> tuple[nn.Module, float]:
        """A network decomposed and finetuned, and the seconds that it took to decompose."""
        title = f"{name}_{share_of_macs:g}"
        start, record = folder / f"{title}.safetensors", folder / f"{title}.json"
        if record.exists():
            seconds = json.loads(record.read_text(encoding="utf-8"))["seconds"]
        else:
            small, seconds = _timed(self._maker(name, share_of_macs, recipe, folder))
            folder.mkdir(parents=True, exist_ok=True)
            decompose.save(small, start)
            keep({"seconds": seconds}, record)
        found = finetune(
            # Made anew it might differ in bits, and checkpoints belong to one network.
            decompose.load(start, self.network),
            self.train.dataset(),
            teacher=self.network,
            recipe=recipe,
            augment=_augmented(),
            folder=folder / title,
            resume=True,
            tell=print,
        )
        return found.network, seconds


def distillation(labels: float, **settings: Any) -> Recipe:
    """The recipe of finetuning: mostly the original's outputs, a little of the labels.

    Args:
        labels: their weight, in [0, 1].
        settings: others of ``Recipe``.
    """
    return Recipe(labels=labels, outputs=1 - labels, workers=default_workers(), **settings)


def _timed(make: Callable[[], nn.Module]) -> tuple[nn.Module, float]:
    """A network, and the seconds that it took to make."""
    started = time.perf_counter()
    made = make()
    return made, time.perf_counter() - started


def hits(network: nn.Module, images: Images, doing: str) -> np.ndarray:
    """Whether the class of each image has the highest score, ``(N,)`` bool."""
    network = network.eval().to(memory_format=torch.channels_last)
    found = []
    with evaluating(network):
        for start in track(range(0, len(images), _BATCH), doing):
            part = slice(start, start + _BATCH)
            x = in_channels_last(images.prepared(part))
            found.append(network(x).argmax(1) == images.labels[part])
    return torch.cat(found).numpy()


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {
        name: getattr(recipe, name)
        for name in (
            *("epochs", "optimiser", "learning_rate", "batch_size", "weight_decay"),
            *("labels", "temperature", "mixup", "freeze_batchnorm"),
            *("compose_factors", "precision"),
        )
    }


def _augmented() -> v2.Compose:
    """As the published networks were trained: shifted by up to four pixels, and mirrored."""
    return v2.Compose(
        [
            v2.RandomCrop(SIZE, padding=4),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
