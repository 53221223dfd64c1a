"""How good a network is on held-out pictures: the number that the best epoch is chosen by."""

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
    """Scores networks on the same pictures, shared among processes; the higher, the better.

    Attributes:
        pictures: held out.
        teacher: the original, where the pictures have no labels.
        processes: that share the pictures.
        batch_size: pictures at a time, of one process.
        workers: processes that decode.
        unreadable: pictures that did not count, by path, with the reason.
    """

    pictures: ImageDataset
    teacher: nn.Module | None
    processes: Processes
    batch_size: int
    workers: int
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def measure(self) -> str:
        """What the score is."""
        return "likeness" if self.teacher else "accuracy"

    def score(self, network: nn.Module) -> float:
        """Top-1 accuracy; without labels, 1 less the relative squared error of the outputs.

        Raises:
            DecomposeError: no picture could be read, or the labels do not fit the network.
        """
        return self._accuracy(network) if self.teacher is None else self._likeness(network)

    def _accuracy(self, network: nn.Module) -> float:
        found = evaluate(
            {"network": network},
            self.pictures,
            batch_size=self.batch_size,
            workers=self.workers,
            device=self.processes.device,
        )
        self.unreadable.update(found.unreadable)
        return found.accuracies["network"].top1.value

    def _likeness(self, network: nn.Module) -> float:
        assert self.teacher is not None
        mine = range(self.processes.index, len(self.pictures), self.processes.count)
        deviation, unreadable = Deviation(), {}
        parameter = next(network.parameters())
        with evaluating(network):
            for batch in self.pictures.batches(self.batch_size, self.workers, mine):
                unreadable |= batch.unreadable
                if len(batch.images):
                    deviation += _between(network, self.teacher, batch.images.to(parameter))
        total = Deviation()
        for part, missed in self.processes.gather((deviation, unreadable)):
            total += part
            self.unreadable.update(missed)
        return 1 - total.relative


def _between(network: nn.Module, teacher: nn.Module, images: Tensor) -> Deviation:
    deviation = Deviation()
    with torch.no_grad():
        pairs = zip(
            floating_tensors(network(images)), floating_tensors(teacher(images)), strict=True
        )
        for ours, theirs in pairs:
            deviation += Deviation.between(ours, theirs)
    return deviation
