"""Run several models on the same images in one pass, each in its own preprocessing.

Every image is decoded once for all models. Processes that ``torchrun`` or ``accelerate launch`` started
share the images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from decompose.data.images import ImageBatch, ImageDataset
from decompose.data.voc import DetectionBatch, DetectionDataset
from decompose.evaluation.provenance import Provenance, in_words
from decompose.evaluation.throughput import Clock
from decompose.layers.forward import evaluating
from decompose.models.preprocessing import Transform
from decompose.utils.batches import moved
from decompose.utils.distributed import Processes
from decompose.utils.progress import track

Data = TypeVar("Data", ImageDataset, DetectionDataset)


@dataclass
class Runner(Generic[Data]):
    """Runs models on a dataset in one pass.

    Attributes:
        models: by name; moved to the device.
        data: the images, in every preprocessing that differs.
        transform_indices: which of the data's transforms each model takes.
        processes: that share the images.
        precision: of the models' products, by automatic mixed precision; ``None`` for their own.
        provenance: the weights, preprocessing and data.
        clock: of the time spent waiting and running.
    """

    models: Mapping[str, nn.Module]
    data: Data
    transform_indices: Sequence[int]
    processes: Processes
    precision: torch.dtype | None
    provenance: Provenance
    clock: Clock = field(default_factory=Clock)

    @classmethod
    def of(
        cls,
        models: Mapping[str, nn.Module],
        data: Data,
        transforms: Mapping[str, Transform] | None,
        device: torch.device | str,
        precision: torch.dtype | None,
    ) -> Runner[Data]:
        """Prepare a pass over the images.

        Args:
            models: by name.
            data: the images.
            transforms: the preprocessing of models that want another than the data's.
            device: where the models run; of several GPUs each process takes one.
            precision: of the models' products; their own by default.
        """
        processes = Processes.joined(device)
        every = {name: (transforms or {}).get(name, data.transforms[0]) for name in models}
        provenance = Provenance.of(models, every, data.samples, precision)
        data, indices = distinct_transforms(data, every)
        for model in models.values():
            model.to(processes.device)
        return cls(models, data, indices, processes, precision, provenance)

    def batches(
        self, batch_size: int, workers: int, indices: Sequence[int], doing: str
    ) -> Iterator[Any]:
        """Load this process's share of the images.

        Args:
            batch_size: images at a time.
            workers: processes that decode.
            indices: of the images wanted, of all processes together.
            doing: what the progress bar says.
        """
        share = indices[self.processes.index :: self.processes.count]
        loader = self.data.batches(batch_size, workers, share)
        self.clock = Clock()
        yield from track(self.clock.waiting(loader), doing, total=len(loader))

    def outputs(self, batch: ImageBatch | DetectionBatch) -> dict[str, Any]:
        """Run every model on a batch, in evaluation mode; their outputs by name."""
        with evaluating(*self.models.values()):
            return {
                name: self._output(model, batch.by_transform[index])
                for (name, model), index in zip(
                    self.models.items(), self.transform_indices, strict=True
                )
            }

    def _output(self, model: nn.Module, images: Tensor | Sequence[Tensor]) -> Any:
        given = images if isinstance(images, Tensor) else list(images)
        kind = self.processes.device.type
        is_mixed = self.precision is not None
        with torch.autocast(kind, self.precision or torch.bfloat16, enabled=is_mixed):
            # A model in an engine has no parameters, and takes its inputs on the CPU.
            return model(moved(given, next(model.parameters(), torch.empty(0))))


def distinct_transforms(data: Data, transforms: Mapping[str, Transform]) -> tuple[Data, list[int]]:
    """Give a dataset each distinct preprocessing once, and its index for every model.

    Args:
        data: images, with or without boxes.
        transforms: by model.
    """
    words = [in_words(transform) for transform in transforms.values()]
    distinct = dict(zip(words, transforms.values(), strict=True))
    return data.with_transforms(*distinct.values()), [list(distinct).index(word) for word in words]
