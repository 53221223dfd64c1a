"""Measure how often a smaller classifier gives the original's class: an early warning."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from decompose.layers.forward import evaluating
from decompose.utils.batches import Batches, InputBatches, call

_ALARMING = 0.5
"""Agreement below which most of the accuracy is expected to be lost."""


@dataclass(frozen=True)
class Agreement:
    """Number of inputs that two classifiers put in the same class.

    Attributes:
        num_same: of them.
        num: inputs seen.
    """

    num_same: int
    num: int

    @property
    def share(self) -> float:
        """Share of the inputs in the same class."""
        return self.num_same / self.num

    @property
    def is_alarming(self) -> bool:
        """Whether most of the accuracy is expected to be lost."""
        return self.share < _ALARMING


def class_agreement(model: nn.Module, small: nn.Module, inputs: Batches) -> Agreement | None:
    """Compare the classes that two models choose.

    Args:
        model: the original.
        small: what was made of it.
        inputs: a tensor, or an iterable of batches.

    Returns:
        ``None`` where the models are no classifiers: anything but one score a class, ``(batch, classes)``.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 3)
        >>> class_agreement(model, model, torch.randn(8, 4))
        Agreement(num_same=8, num=8)
    """
    num_same = num = 0
    with evaluating(model, small):
        for x in InputBatches(inputs, model):
            before, after = call(model, x), call(small, x)
            if not (_is_scores(before) and _is_scores(after)):
                return None
            num_same += int((before.argmax(1) == after.argmax(1)).sum())
            num += len(before)
    return Agreement(num_same, num) if num else None


def _is_scores(output: object) -> bool:
    return isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] > 1
