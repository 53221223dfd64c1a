"""Make a recipe's optimiser and learning-rate schedule from torch's own."""

from __future__ import annotations

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from decompose.training.frobenius_decay import parameter_groups
from decompose.training.recipe import Recipe

_MOMENTUM = 0.9

_START = 0.01
"""Share of the learning rate at which warm-up begins."""


def make_optimiser(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Make the recipe's optimiser; it does not decay factors (``frobenius_decay``).

    Raises:
        DecomposeError: nothing in the model requires a gradient.
    """
    groups = parameter_groups(model, recipe.weight_decay)
    if recipe.optimiser == "adamw":
        return AdamW(groups, lr=recipe.peak)
    return SGD(groups, lr=recipe.peak, momentum=_MOMENTUM, nesterov=True)


def make_schedule(optimiser: Optimizer, recipe: Recipe, steps_an_epoch: int) -> LRScheduler:
    """A linear rise (Goyal et al. 2017, arXiv 1706.02677, section 2.2), then a cosine down to nothing.

    Args:
        optimiser: whose learning rate it sets, once a step.
        recipe: has the epochs and the share of steps with a rising learning rate.
        steps_an_epoch: in all processes together.
    """
    total = recipe.epochs * steps_an_epoch
    rising = min(round(recipe.warmup * total), total - 1)
    falling = CosineAnnealingLR(optimiser, total - rising)
    if not rising:
        return falling
    return SequentialLR(optimiser, [LinearLR(optimiser, _START, 1.0, rising), falling], [rising])
