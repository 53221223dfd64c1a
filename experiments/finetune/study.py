"""The VGG-style network: trained, compressed, and finetuned in several ways.

Every training keeps its checkpoints below the output folder, and every network made is a file there, so
that an interrupted run goes on where it was.
"""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

import decompose
from decompose.compression.statistics import Statistics
from decompose.data.bundled import fashion_mnist_images
from decompose.evaluation.accuracy import evaluate
from decompose.layers.costs import count_macs, count_params, trace_shapes
from decompose.models.conversion import plan_of
from decompose.training.blockwise import reconstruct_
from decompose.training.finetuning import Finetuned, finetune
from decompose.training.recipe import Recipe
from experiments.finetune.config import BARS, FROM_SCRATCH, Setting
from experiments.finetune.networks import vgg_style

_MEAN, _STD = (0.286,) * 3, (0.353,) * 3

PLAIN = v2.Compose(
    [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(_MEAN, _STD)]
)
AUGMENTED = v2.Compose([v2.RandomHorizontalFlip(), PLAIN])

_BATCH = 250


class Study:
    """Fashion-MNIST, and what is made with it.

    Args:
        setting: of the run.
        folder: where networks and checkpoints are kept.
    """

    def __init__(self, setting: Setting, folder: Path) -> None:
        self.setting, self._folder = setting, folder
        folder.mkdir(parents=True, exist_ok=True)
        images = fashion_mnist_images(PLAIN, train=True)
        if setting.num_train < len(images):
            images = images.subset(setting.num_train)
        self._train, self._held = images.parted(setting.num_held / len(images))
        self._test = fashion_mnist_images(PLAIN, train=False)
        if setting.num_test < len(self._test):
            self._test = self._test.subset(setting.num_test)
        self.example = torch.zeros(1, 3, 28, 28)

    @cached_property
    def original(self) -> nn.Module:
        """The network that is compressed."""
        torch.manual_seed(self.setting.original.seed)
        start = vgg_style(self.setting.widths, self.setting.depths)
        return self._trained("original", start, self.setting.original).network

    @cached_property
    def compressed(self) -> dict[float, dict[str, nn.Module]]:
        """The original with each share of its MACs, by ``config.WAYS``, before finetuning."""
        unlabelled = self._unlabelled()
        some = unlabelled[: self.setting.num_weighed]
        weighed = cache(lambda: decompose.measure(self.original, self.example, some))
        return {share: self._compressed(share, unlabelled, weighed) for share in BARS}

    def _compressed(
        self, share: float, unlabelled: Tensor, weighed: Callable[[], Statistics]
    ) -> dict[str, nn.Module]:
        def truncated() -> nn.Module:
            plan = decompose.plan(self.original, self.example, macs=share, calibrate=weighed())
            return decompose.apply(plan, self.original)

        def repaired() -> nn.Module:
            plan = plan_of(made["truncated"])
            return decompose.apply(plan, self.original, calibrate=unlabelled)

        def blockwise() -> nn.Module:
            small = copy.deepcopy(made["repaired"])
            reconstruct_(small, self.original, unlabelled, steps=self.setting.steps)
            return small

        made: dict[str, nn.Module] = {}
        for make in (truncated, repaired, blockwise):
            made[make.__name__] = self._kept(f"{make.__name__}-{share:g}", make)
        return made

    def before(self) -> dict[str, Any]:
        """Costs and accuracies of the original, and of what it is made into before finetuning."""
        (accuracy,) = self._accuracies({"original": self.original}).values()
        held_out = self._held_out(self.original)
        return {
            "original": {**self._costs(self.original), "accuracy": accuracy, "held_out": held_out},
            "shares": {
                f"{share:g}": {
                    **self._costs(networks["blockwise"]),
                    "methods": Counter(
                        choice.method for choice in plan_of(networks["blockwise"]).layers.values()
                    ),
                    "accuracies": self._accuracies(networks),
                }
                for share, networks in self.compressed.items()
            },
        }

    def finetuned(self, seed: int) -> dict[str, Any]:
        """Accuracies of the compressed networks once they are finetuned, by share and ``config.WAYS``."""
        return {f"{share:g}": self._finetuned(seed, share) for share in BARS}

    def _finetuned(self, seed: int, share: float) -> dict[str, Any]:
        small, recipe = self.compressed[share]["blockwise"], replace(self.setting.tuned, seed=seed)
        starts, runs = {"labels": small, "distilled": small}, {}
        runs["labels"] = self._trained(f"labels-{share:g}-{seed}", small, recipe)
        runs["distilled"] = self._trained(
            f"distilled-{share:g}-{seed}", small, recipe, self.original
        )
        if share == FROM_SCRATCH and seed == self.setting.seeds[0]:
            starts["random"] = copy.deepcopy(small)
            torch.manual_seed(seed)
            reset_(starts["random"])
            scratch = self.setting.from_scratch(seed)
            runs["random"] = self._trained(f"random-{share:g}-{seed}", starts["random"], scratch)
        return {
            "accuracies": self._accuracies({way: run.network for way, run in runs.items()}),
            "held_out": {
                way: [self._held_out(starts[way]), *(epoch.score for epoch in run.history)]
                for way, run in runs.items()
            },
        }

    def _costs(self, network: nn.Module) -> dict[str, int]:
        """MACs for one image, and parameters."""
        macs = count_macs(network, trace_shapes(network, self.example))
        return {"macs": sum(macs.values()), "params": count_params(network)}

    def _accuracies(self, networks: Mapping[str, nn.Module]) -> dict[str, float]:
        found = evaluate(networks, self._test, batch_size=_BATCH).accuracies
        return {name: accuracy.top1.value for name, accuracy in found.items()}

    def _held_out(self, network: nn.Module) -> float:
        found = evaluate({"start": network}, self._held, batch_size=_BATCH)
        return found.accuracies["start"].top1.value

    def _unlabelled(self) -> Tensor:
        some = self._train.subset(self.setting.num_unlabelled)
        return torch.cat([batch.images for batch in some.batches(_BATCH)])

    def _kept(self, name: str, make: Callable[[], nn.Module]) -> nn.Module:
        """A network that was made before, or is now, and is kept."""
        path = self._folder / f"{name}.safetensors"
        if not path.exists():
            decompose.save(make(), path)
        return decompose.load(path, self.original)

    def _trained(
        self, name: str, start: nn.Module, recipe: Recipe, teacher: nn.Module | None = None
    ) -> Finetuned:
        return finetune(
            start,
            self._train,
            teacher=teacher,
            validation=self._held,
            recipe=recipe,
            augment=AUGMENTED,
            folder=self._folder / name,
            resume=True,
            device="cpu",
            tell=lambda line: print(f"{name}, {line}", file=sys.stderr),
        )


def reset_(network: nn.Module) -> None:
    """Give a network new weights from torch's generator, in place, as its layers begin with."""
    for module in network.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
