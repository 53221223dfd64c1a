"""BatchNorm's running statistics, estimated anew where weights have changed beneath them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from decompose.layers.discovery import evaluating
from decompose.utils.batches import Example, call


def has_statistics(model: nn.Module) -> bool:
    """Whether a network has normalisations with running statistics."""
    return bool(_running(model))


def reestimate_(model: nn.Module, batches: Iterable[Example]) -> None:
    """Set running means and variances to their average over batches, in place.

    The exponential average that training leaves lags behind its weights; this one is of the weights
    as they are (Wu and Johnson 2021, arXiv 2105.07576, section 3).

    Args:
        model: its modes are left as they were.
        batches: one batch each (``calls``), on the model's device.
    """
    norms = _running(model)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    with evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            # None stands for the average of all that is seen.
            norm.momentum = None
            norm.train()
        try:
            for images in batches:
                call(model, images)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def _running(model: nn.Module) -> list[_BatchNorm]:
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
