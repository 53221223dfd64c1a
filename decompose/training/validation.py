"""Score models on held-out images, to choose the best epoch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from decompose.algebra import Deviation
from decompose.data.images import ImageDataset
from decompose.evaluation.accuracy import evaluate
from decompose.layers.forward import evaluating, floating_tensors
from decompose.utils.distributed import Processes


@dataclass(frozen=True)
class Validator:
    """Scores models on the same images, shared among processes; the higher, the better.

    Attributes:
        images: held out.
        teacher: the original, by whose outputs a model is judged; without one, by labels.
        processes: that share the images.
        batch_size: images at a time, of one process.
        workers: processes that decode.
        unreadable: images that did not count, by path, with the reason.
    """

    images: ImageDataset
    teacher: nn.Module | None
    processes: Processes
    batch_size: int
    workers: int
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def measure(self) -> str:
        """The name of the score."""
        return "likeness" if self.teacher else "accuracy"

    def score(self, model: nn.Module) -> float:
        """Top-1 accuracy; with a teacher, 1 less the relative squared error of the outputs.

        Raises:
            DecomposeError: no image could be read, or the labels do not fit the model.
        """
        return self._accuracy(model) if self.teacher is None else self._likeness(model)

    def _accuracy(self, model: nn.Module) -> float:
        found = evaluate(
            {"network": model},
            self.images,
            batch_size=self.batch_size,
            workers=self.workers,
            device=self.processes.device,
        )
        self.unreadable.update(found.unreadable)
        return found.accuracies["network"].top1.value

    def _likeness(self, model: nn.Module) -> float:
        assert self.teacher is not None
        mine = range(self.processes.index, len(self.images), self.processes.count)
        deviation, unreadable = Deviation(), {}
        parameter = next(model.parameters())
        with evaluating(model):
            for batch in self.images.batches(self.batch_size, self.workers, mine):
                unreadable |= batch.unreadable
                if len(batch.images):
                    deviation += _between(model, self.teacher, batch.images.to(parameter))
        total = Deviation()
        for part, missed in self.processes.gather((deviation, unreadable)):
            total += part
            self.unreadable.update(missed)
        return 1 - total.relative


def _between(model: nn.Module, teacher: nn.Module, images: Tensor) -> Deviation:
    deviation = Deviation()
    with torch.no_grad():
        pairs = zip(floating_tensors(model(images)), floating_tensors(teacher(images)), strict=True)
        for ours, theirs in pairs:
            deviation += Deviation.between(ours, theirs)
    return deviation
