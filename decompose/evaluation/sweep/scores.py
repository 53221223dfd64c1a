"""Scores of the models of a sweep: accuracy on images, or the error of the output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from decompose.algebra import Deviation
from decompose.data.images import ImageDataset
from decompose.evaluation.accuracy_budget import JudgedImages
from decompose.evaluation.confidence_intervals import share
from decompose.layers.forward import comparable_outputs, evaluating
from decompose.utils.batches import Batches, InputBatches, batch_size


class Score(Protocol):
    """Scores models against the original."""

    @property
    def title(self) -> str:
        """What is measured, on how many inputs."""
        ...

    @property
    def is_error(self) -> bool:
        """Whether less is better."""
        ...

    def of_original(self) -> float:
        """The original's own score."""
        ...

    def of(self, small: nn.Module) -> Mapping[str, float]:
        """The score of a smaller model as ``value``, and what else is known of it."""
        ...


@dataclass(frozen=True, eq=False)
class OutputErrors:
    """The relative squared error of a model's output on some inputs.

    Attributes:
        model: the original.
        inputs: that are gone through again for each model.
        kind: of the inputs, for titles.
    """

    model: nn.Module
    inputs: Batches
    kind: str
    is_error = True

    @property
    def title(self) -> str:
        """What is measured."""
        num = sum(map(batch_size, InputBatches(self.inputs, self.model)))
        return f"relative squared error of the output on {num} {self.kind}"

    def of_original(self) -> float:
        """No error."""
        return 0.0

    def of(self, small: nn.Module) -> dict[str, float]:
        """The error of a smaller model."""
        deviation = Deviation()
        with evaluating(self.model, small):
            for x in InputBatches(self.inputs, self.model):
                pairs = zip(
                    comparable_outputs(small, x), comparable_outputs(self.model, x), strict=True
                )
                for output, reference in pairs:
                    deviation += Deviation.between(output, reference)
        return {"value": deviation.relative}


@dataclass(frozen=True, eq=False)
class Accuracies:
    """The share of images that a classifier puts in their class; without labels, in the original's."""

    images: JudgedImages
    is_error = False

    @classmethod
    def on(cls, model: nn.Module, images: ImageDataset, workers: int = 0) -> Accuracies:
        """Judge the original once.

        Args:
            model: the original.
            images: labelled or not, in its preprocessing.
            workers: processes that decode.
        """
        return cls(JudgedImages.of(model, images, workers))

    @property
    def title(self) -> str:
        """What is measured."""
        what = "top-1" if self.images.is_labelled else "images in the original's class"
        return f"{what}, % of {len(self.images)} images"

    def of_original(self) -> float:
        """The original's accuracy."""
        return share(self.images.hits).value

    def of(self, small: nn.Module) -> dict[str, float]:
        """The accuracy of a smaller model, and the interval of its difference to the original's."""
        change = self.images.change(small)
        value = self.of_original() + change.value
        return {"value": value, "change": change.value, "low": change.low, "high": change.high}
