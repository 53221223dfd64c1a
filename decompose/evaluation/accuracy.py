"""Measure the top-1 and top-5 accuracy of several classifiers in one pass over images.

Each image is decoded once for all models and put through each one's own preprocessing. Processes
started by ``torchrun`` or ``accelerate launch`` share the images, none of which is counted twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decompose.data.imagenet import NUM_CLASSES, is_imagenet_subset, with_imagenet_labels
from decompose.data.images import ImageBatch, ImageDataset
from decompose.evaluation.confidence_intervals import Estimate, paired_difference, share
from decompose.evaluation.predictions import TOP, PartialResults, Predictions
from decompose.evaluation.provenance import Provenance
from decompose.evaluation.runner import Runner
from decompose.evaluation.throughput import Throughput
from decompose.models.preprocessing import Transform
from decompose.utils.errors import DecomposeError, none_read
from decompose.utils.name_patterns import abbreviated
from decompose.utils.tables import Table


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of one model.

    Attributes:
        top1: share of the images whose class has the highest score.
        top5: share whose class is among the five highest; ``None`` with fewer than six classes.
        top1_change: top-1 less the first model's, on the same images.
        top5_change: the same for top-5.
        agreement: share of the images that it and the first model put in the same class.
    """

    top1: Estimate
    top5: Estimate | None
    top1_change: Estimate
    top5_change: Estimate | None
    agreement: float


@dataclass(frozen=True)
class Evaluation:
    """The accuracy of models on the same images.

    Attributes:
        accuracies: by model; the others are compared with the first.
        num_pictures: images read.
        num_classes: that the models score.
        unreadable: what could not be read, by path, with the reason; it counts nowhere.
        throughput: of this run; ``None`` where an earlier one had done it all.
        provenance: what was evaluated on what.
    """

    accuracies: Mapping[str, Accuracy]
    num_pictures: int
    num_classes: int
    unreadable: Mapping[str, str]
    throughput: Throughput | None
    provenance: Provenance

    def to_dict(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        record = asdict(self)
        for name, accuracy in self.accuracies.items():
            for key, value in vars(accuracy).items():
                if isinstance(value, Estimate):
                    record["accuracies"][name][key] = value._asdict()
        return record

    def table(self) -> Table:
        """A row a model: accuracies with their interval, and their difference from the first's."""
        first = next(iter(self.accuracies))
        rows = [
            (
                name,
                _percent(accuracy.top1),
                "" if name == first else _points(accuracy.top1_change),
                "" if accuracy.top5 is None else _percent(accuracy.top5),
                "" if name == first else _points(accuracy.top5_change),
                "" if name == first else f"{accuracy.agreement:.1%}",
            )
            for name, accuracy in self.accuracies.items()
        ]
        return Table(
            f"Accuracy on {self.num_pictures:,} images of {self.num_classes:,} classes; in brackets "
            "where it lies with 95 % confidence",
            ["model", "top-1 %", "top-1\nchange", "top-5 %", "top-5\nchange", "same class"],
            rows,
        )


def evaluate(
    models: Mapping[str, nn.Module],
    images: ImageDataset,
    *,
    transforms: Mapping[str, Transform] | None = None,
    batch_size: int = 32,
    workers: int = 0,
    device: torch.device | str = "cpu",
    precision: torch.dtype | None = None,
    record: Path | None = None,
) -> Evaluation:
    """Measure the accuracy of classifiers, in one pass over the images.

    Args:
        models: by name, ``(batch, 3, H, W)`` to ``(batch, classes)``; the first is what the others
            are compared with. They are moved to ``device``.
        images: labelled. Where their classes are some of ImageNet's by synset name and the models
            score all thousand, labels are those among the thousand.
        transforms: the preprocessing of models that want another than the images come in.
        batch_size: images at a time.
        workers: processes that decode.
        device: where the models run; of several GPUs each process takes one.
        precision: of the models' products, by automatic mixed precision; their own by default.
        record: file that the figures will be written to. Predictions are kept beside it, and
            an interrupted evaluation goes on from there; ``predictions.forget`` removes them.

    Raises:
        DecomposeError: a model gives no class scores or has another number of classes, or no
            image could be read.
    """
    runner = Runner.of(models, images, transforms, device, precision)
    if is_imagenet_subset(images.classes) and _num_scored(runner) == NUM_CLASSES:
        images = with_imagenet_labels(images)
        runner = Runner.of(models, images, transforms, device, precision)
    reader = _ScoreReader(len(images.classes), images.classes)
    partial = None
    if record is not None:
        partial = PartialResults(record, runner.provenance.key(), runner.processes)
    done = None if partial is None else partial.open()
    known = set() if done is None else set(done.indices.tolist())
    todo = [index for index in range(len(images)) if index not in known]
    parts = [done] if done is not None and runner.processes.is_first() else []
    doing = f"evaluating, {len(known):,} done before" if known else "evaluating"
    for batch in runner.batches(batch_size, workers, todo, doing):
        parts.append(reader.read(batch, runner))
        if partial is not None and partial.is_due():
            parts = [Predictions.joined(parts)]
            partial.keep(parts[0])
    found = Predictions.joined(parts or [_NOTHING])
    gathered = runner.processes.gather((found, runner.clock.read()))
    return _summary(list(models), gathered, images, reader.num_classes, runner.provenance)


_NOTHING = Predictions(torch.empty(0, dtype=torch.int64), torch.empty(0), torch.empty(1, 0, 1))


def _num_scored(runner: Runner[ImageDataset]) -> int | None:
    """Number of classes that the first model scores; ``None`` if no image could be read."""
    for batch in runner.data.batches(1):
        if len(batch.indices):
            scores = next(iter(runner.outputs(batch).values()))
            return scores.shape[1] if isinstance(scores, Tensor) and scores.ndim == 2 else None
    return None


def _summary(
    names: Sequence[str],
    gathered: Sequence[tuple[Predictions, Throughput | None]],
    images: ImageDataset,
    num_classes: int,
    provenance: Provenance,
) -> Evaluation:
    """Add up the results of all processes."""
    found = Predictions.joined([part for part, _ in gathered])
    unreadable = {**images.damaged, **found.unreadable}
    if not len(found.indices):
        raise none_read(unreadable)
    num_classes = num_classes or 1 + int(found.guesses.max())
    throughputs = [throughput for _, throughput in gathered if throughput is not None]
    return Evaluation(
        _accuracies(names, found, num_classes),
        len(found.indices),
        num_classes,
        unreadable,
        Throughput.together(throughputs) if throughputs else None,
        provenance,
    )


@dataclass
class _ScoreReader:
    """Checks class scores and keeps the highest classes.

    Attributes:
        num_classes: that there are; 0 until the first scores say it.
        classes: names of the class folders, if there are any.
    """

    num_classes: int
    classes: Sequence[str] = ()

    def read(self, batch: ImageBatch, runner: Runner[ImageDataset]) -> Predictions:
        """Run the models on a batch and keep what they predict."""
        if not len(batch.indices):
            top = torch.empty(len(runner.models), 0, 1)
        else:
            outputs = runner.outputs(batch).items()
            top = torch.stack([self._guesses(name, scores) for name, scores in outputs])
        if self.num_classes and len(batch.labels) and batch.labels.max() >= self.num_classes:
            raise DecomposeError(
                f"the data has a label {int(batch.labels.max())}, but the models score "
                f"{self.num_classes} classes"
            )
        return Predictions(batch.indices, batch.labels, top.long(), batch.unreadable)

    def _guesses(self, name: str, scores: Any) -> Tensor:
        if not isinstance(scores, Tensor):
            raise DecomposeError(f"{name}: gives a {type(scores).__name__}, not class scores")
        if scores.ndim != 2:
            raise DecomposeError(
                f"{name}: gives an output of shape {tuple(scores.shape[1:])} for an image, not "
                "one score a class"
            )
        self.num_classes = self.num_classes or scores.shape[1]
        if scores.shape[1] != self.num_classes:
            others = abbreviated(self.classes) if self.classes else "those of the first model"
            raise DecomposeError(
                f"{name}: scores {scores.shape[1]} classes, but there are {self.num_classes}: {others}"
            )
        if not torch.isfinite(scores).all():
            raise DecomposeError(f"{name}: gives scores that are not finite (NaN or Inf)")
        return scores.topk(min(TOP, self.num_classes)).indices.cpu()


def _accuracies(names: Sequence[str], found: Predictions, num_classes: int) -> dict[str, Accuracy]:
    hits = {k: found.hits(k).numpy() for k in (1, TOP) if k == 1 or k < num_classes}
    return {
        name: Accuracy(
            share(hits[1][index]),
            share(hits[TOP][index]) if TOP in hits else None,
            paired_difference(hits[1][0], hits[1][index]),
            paired_difference(hits[TOP][0], hits[TOP][index]) if TOP in hits else None,
            found.agreement(index),
        )
        for index, name in enumerate(names)
    }


def _percent(estimate: Estimate) -> str:
    value, low, high = (f"{100 * part:.2f}" for part in estimate)
    return f"{value} ({low} to {high})"


def _points(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    value, low, high = (f"{100 * part:+.2f}" for part in estimate)
    return f"{value} ({low} to {high})"
