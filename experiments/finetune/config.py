"""What is trained, and how: every setting of the experiment."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from decompose.training.recipe import Recipe

FROM_SCRATCH = 1 / 4
"""The share whose architecture is trained from random weights as well."""

BARS = {1 / 4: 0.3, 1 / 8: 1.0}
"""Shares of the original's MACs that are left, each with the points that the finetuned network may lose."""

WAYS = {
    "truncated": "as\ntruncated",
    "repaired": "repaired,\nno labels",
    "blockwise": "blockwise,\nno labels",
    "labels": "finetuned\non labels",
    "distilled": "finetuned,\ndistilled",
}
"""The states of a compressed network, from the first to the last."""

_TRAINING = Recipe(epochs=8, batch_size=128, learning_rate=0.1, weight_decay=5e-4, workers=1)


@dataclass(frozen=True)
class Setting:
    """A run of the experiment.

    Attributes:
        widths: channels of the VGG-style network's stages.
        depths: convolutions of each stage.
        seeds: of finetuning.
        num_train: labelled images to train on, some of them held out to choose the best epoch.
        num_held: number of them.
        num_test: images to test on.
        num_unlabelled: images that repair and blockwise reconstruction take.
        num_weighed: those of them that plans are made on.
        steps: of blockwise reconstruction, for each layer.
        original: how the original is trained.
        tuned: how the compressed network is finetuned.
        num_fitted: labelled images that VGG16's linear classifier is fitted on.
        num_rounds: turns of each network when steps are timed.
    """

    widths: tuple[int, ...] = (32, 64, 128)
    depths: tuple[int, ...] = (1, 2, 2)
    seeds: tuple[int, ...] = (0, 1, 2)
    num_train: int = 60_000
    num_held: int = 3000
    num_test: int = 10_000
    num_unlabelled: int = 128
    num_weighed: int = 32
    steps: int = 300
    original: Recipe = _TRAINING
    tuned: Recipe = field(default=replace(_TRAINING, epochs=3, learning_rate=0.02))
    num_fitted: int = 5000
    num_rounds: int = 7

    def from_scratch(self, seed: int) -> Recipe:
        """How the compressed architecture is trained from random weights: as long as the decomposed one."""
        return replace(self.original, epochs=self.tuned.epochs, seed=seed)


FULL = Setting()

SMALL = Setting(
    widths=(8, 16),
    depths=(1, 2),
    seeds=(0, 1),
    num_train=1500,
    num_held=300,
    num_test=500,
    num_unlabelled=32,
    num_weighed=8,
    steps=20,
    original=replace(_TRAINING, epochs=2, batch_size=32),
    tuned=replace(_TRAINING, epochs=1, batch_size=32, learning_rate=0.02),
    num_fitted=500,
    num_rounds=2,
)
"""To see that it runs."""
