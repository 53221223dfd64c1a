"""What is measured: settings, strengths, and the figures that the paper reports.

Reported figures are those of Guo et al., "Network Decoupling" (BMVC 2018, arXiv 1808.05517): VGG16
on ImageNet, 224×224, without training. GMACs count the fully connected layers (they say FLOPs).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from decompose.training.recipe import Recipe

MASK = ("conv1_1", "conv5_1", "conv5_2", "conv5_3")
"""Layers that network decoupling leaves dense."""

ORDERS = ("pw_dw", "dw_pw")
NUM_TERMS = range(1, 10)

DROP = 0.01
"""Of the accuracy, at which methods are compared."""

SINGLE = ("ND", "CP", "SD", "CD")
COMBINED = ("CD", "SD", "CP", "CD+SD", "CD+CP", "CD+SD+CP")
RECIPES = {"a": SINGLE, "b": tuple(name + end for name in COMBINED for end in ("", "+ND"))}
"""The rows of both tables."""

NAMES = {
    "ND": "network decoupling",
    "CP": "channel pruning",
    "SD": "spatial decomposition",
    "CD": "channel decomposition",
}

REPORTED_DENSE_GMACS = 15.47
REPORTED_GMACS = {
    "ND": 8.61,
    "CP": 9.89,
    "SD": 7.20,
    "CD": 6.52,
    "CD+ND": 4.72,
    "SD+ND": 4.15,
    "CP+ND": 8.49,
    "CD+SD": 4.32,
    "CD+SD+ND": 4.28,
    "CD+CP": 7.16,
    "CD+CP+ND": 5.45,
    "CD+SD+CP": 4.92,
    "CD+SD+CP+ND": 4.70,
}
REPORTED_TOP1_DROP = {"ND": 1.55, "CP": 1.68, "SD": 1.96, "CD": 2.1}
"""In points, at a top-5 drop of 1.0 points."""

TUNED_TERMS = (3, 4)
"""Of PW+DW, ``MASK`` left dense: networks that lose much until they are finetuned."""

REPORTED_MASKED_GMACS = {3: 6.49, 4: 8.12, 5: 9.76}
"""Numbers of terms of PW+DW, ``MASK`` left dense."""

MOST_TIMES_FEWER = 64.0
"""Of each method's weights, at strength 1."""

MOST_PART = 1.5
"""Of the strength that a method bears alone, in a combination."""

ENERGY_LEFT_OUT = (0.002, 0.4)
"""By network decoupling alone, at strengths 0 and 1."""

DEEPER = 1.5
"""Share of channels that He et al. keep in conv4, over that in conv1 to conv3; conv5 keeps all."""


IMAGENET_RECIPE = Recipe(epochs=10, batch_size=256, learning_rate=0.01, precision="bf16")


@dataclass(frozen=True)
class Setting:
    """What the methods are measured on, and how closely.

    Attributes:
        data: the name of the data, for headings.
        size: height and width of the images in pixels.
        criterion: ``top1`` or ``top5``, whose drop is held.
        num_calibrated: unlabelled images that the methods are fitted on.
        num_places: of each layer's output for each of them.
        num_subset: images of the search.
        num_confirmed: images that the outcome is confirmed on, the subset's among them.
        num_fitted: labelled images that the linear classifier is fitted on.
        num_tuned: labelled images that networks are finetuned on; 0 for all there are.
        recipe: how.
        num_steps: halvings of a single method's range of strengths; one less in combinations.
        ridge: pull of every fit towards what is known without data: the fewer data, the stronger.
        num_rounds: alternations of the rectified channel decomposition with each penalty.
        inner_energies: shares of a factor's energy that network decoupling is tried with in a
            combination.
    """

    data: str
    size: int
    criterion: str
    num_calibrated: int
    num_places: int
    num_subset: int
    num_confirmed: int
    num_fitted: int = 0
    num_tuned: int = 0
    recipe: Recipe = IMAGENET_RECIPE
    num_steps: int = 6
    ridge: float = 0.1
    num_rounds: int = 2
    inner_energies: tuple[float, ...] = (0.9,)


IMAGENET = Setting(
    "ImageNet", 224, "top5", 5000, 10, 1000, 50_000, num_steps=7, ridge=1e-3, num_rounds=25
)

IMAGENET_SMALL = replace(
    IMAGENET,
    num_calibrated=16,
    num_subset=20,
    num_confirmed=40,
    num_tuned=16,
    recipe=Recipe(epochs=1, batch_size=4, learning_rate=1e-4),
    num_steps=2,
    ridge=0.1,
    num_rounds=2,
)
"""To see that it runs, before it runs for long."""

FASHION = Setting(
    "Fashion-MNIST",
    32,
    "top1",
    300,
    10,
    1000,
    3000,
    num_fitted=5000,
    num_tuned=5000,
    recipe=Recipe(epochs=1, learning_rate=0.003),
)

SMALL = replace(
    FASHION,
    num_calibrated=100,
    num_subset=300,
    num_confirmed=600,
    num_fitted=900,
    num_tuned=200,
    num_steps=3,
    num_rounds=2,
)
"""To see that it runs, as continuous integration does."""

DIGITS = replace(SMALL, data="scikit-learn's digits")
"""The same where Fashion-MNIST is not installed."""
