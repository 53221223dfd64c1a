"""How good classifiers are: top-1 and top-5 accuracy of several networks in one pass over pictures.

Each picture is decoded once for all networks and put through each one's own preprocessing. Processes
started by ``torchrun`` or ``accelerate launch`` share the pictures, none of which is counted twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from decompose.data.images import ImageBatch, ImageDataset
from decompose.data.voc import DetectionDataset
from decompose.evaluation.confidence_intervals import Estimate, paired_difference, share
from decompose.evaluation.predictions import TOP, PartialResults, Predictions
from decompose.evaluation.provenance import Provenance, in_words
from decompose.evaluation.throughput import Clock, Throughput
from decompose.layers.forward import evaluating
from decompose.models.preprocessing import Transform
from decompose.utils.distributed import Processes
from decompose.utils.errors import DecomposeError
from decompose.utils.progress import track
from decompose.utils.tables import Table

Data = TypeVar("Data", ImageDataset, DetectionDataset)


@dataclass(frozen=True)
class Accuracy:
    """How good one network is.

    Attributes:
        top1: share of the pictures whose class has the highest score.
        top5: share whose class is among the five highest; ``None`` with fewer than six classes.
        top1_change: what top-1 is more than the first network's, on the same pictures.
        top5_change: the same for top-5.
        agreement: share of the pictures that it and the first network put in the same class.
    """

    top1: Estimate
    top5: Estimate | None
    top1_change: Estimate
    top5_change: Estimate | None
    agreement: float


@dataclass(frozen=True)
class Evaluation:
    """The accuracy of networks on the same pictures.

    Attributes:
        accuracies: by network; the others are compared with the first.
        num_pictures: pictures read.
        num_classes: that the networks tell apart.
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
        """A row a network: accuracies with their interval, and what they are more than the first's."""
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
            f"Accuracy on {self.num_pictures:,} pictures of {self.num_classes:,} classes; in brackets "
            "where it lies with 95 % confidence",
            ["network", "top-1 %", "top-1\nchange", "top-5 %", "top-5\nchange", "same class"],
            rows,
        )


def evaluate(
    networks: Mapping[str, nn.Module],
    pictures: ImageDataset,
    *,
    transforms: Mapping[str, Transform] | None = None,
    batch_size: int = 32,
    workers: int = 0,
    device: torch.device | str = "cpu",
    precision: torch.dtype | None = None,
    record: Path | None = None,
) -> Evaluation:
    """Measure the accuracy of classifiers, in one pass over the pictures.

    Args:
        networks: by name, ``(batch, 3, H, W)`` to ``(batch, classes)``; the first is what the others
            are compared with. They are moved to ``device``.
        pictures: labelled.
        transforms: the preprocessing of networks that want another than the pictures come in.
        batch_size: pictures at a time.
        workers: processes that decode.
        device: where the networks run; of several GPUs each process takes one.
        precision: of the networks' products, by automatic mixed precision; their own by default.
        record: file that the figures will be written to. Outcomes are kept beside it meanwhile, and
            an interrupted evaluation goes on from there; ``ledgers.forget`` removes them.

    Raises:
        DecomposeError: a network gives no class scores or has another number of classes, or no
            picture could be read.
    """
    processes = Processes.joined(device)
    with_transforms = {
        name: (transforms or {}).get(name, pictures.transforms[0]) for name in networks
    }
    provenance = Provenance.of(networks, with_transforms, pictures.samples, precision)
    ledger = None if record is None else PartialResults(record, provenance.key(), processes)
    done = None if ledger is None else ledger.open()
    known = set() if done is None else set(done.places.tolist())
    todo = [place for place in range(len(pictures)) if place not in known]
    pictures, views = distinct_transforms(pictures, with_transforms)
    loader = pictures.batches(batch_size, workers, todo[processes.index :: processes.count])
    runner = _Runner(networks, views, len(pictures.classes), processes.device, precision)
    parts = [done] if done is not None and processes.is_first() else []
    clock = Clock()
    doing = f"evaluating, {len(known):,} done before" if known else "evaluating"
    with evaluating(*networks.values()):
        for batch in track(clock.waiting(loader), doing, total=len(loader)):
            parts.append(runner.run(batch))
            if ledger is not None and ledger.is_due():
                parts = [Predictions.joined(parts)]
                ledger.keep(parts[0])
    gathered = processes.gather((Predictions.joined(parts or [_NOTHING]), clock.read()))
    return _summed_up(list(networks), gathered, pictures, runner.num_classes, provenance)


_NOTHING = Predictions(torch.empty(0, dtype=torch.int64), torch.empty(0), torch.empty(1, 0, 1))


def distinct_transforms(data: Data, transforms: Mapping[str, Transform]) -> tuple[Data, list[int]]:
    """Pictures in every preprocessing that differs, and which of these each network wants.

    Args:
        data: pictures or scenes.
        transforms: by network.
    """
    words = [in_words(transform) for transform in transforms.values()]
    distinct = dict(zip(words, transforms.values(), strict=True))
    return data.with_transforms(*distinct.values()), [list(distinct).index(word) for word in words]


def _summed_up(
    names: Sequence[str],
    gathered: Sequence[tuple[Predictions, Throughput | None]],
    pictures: ImageDataset,
    num_classes: int,
    provenance: Provenance,
) -> Evaluation:
    """What all processes found, together."""
    found = Predictions.joined([part for part, _ in gathered])
    unreadable = {**pictures.damaged, **found.unreadable}
    if not len(found.places):
        path, reason = next(iter(unreadable.items()), ("the data", "it holds none"))
        raise DecomposeError(f"no picture could be read; the first is {path}: {reason}")
    num_classes = num_classes or 1 + int(found.guesses.max())
    throughputs = [throughput for _, throughput in gathered if throughput is not None]
    return Evaluation(
        _accuracies(names, found, num_classes),
        len(found.places),
        num_classes,
        unreadable,
        Throughput.together(throughputs) if throughputs else None,
        provenance,
    )


@dataclass
class _Runner:
    """Puts batches through every network."""

    networks: Mapping[str, nn.Module]
    views: Sequence[int]
    num_classes: int
    device: torch.device
    precision: torch.dtype | None

    def __post_init__(self) -> None:
        for network in self.networks.values():
            network.to(self.device)

    def run(self, batch: ImageBatch) -> Predictions:
        """What the networks make of a batch."""
        guesses = [
            self._guesses(name, network, batch.by_transform[view])
            for (name, network), view in zip(self.networks.items(), self.views, strict=True)
            if len(batch.places)
        ]
        top = torch.stack(guesses) if guesses else torch.empty(len(self.networks), 0, 1)
        if self.num_classes and len(batch.labels) and batch.labels.max() >= self.num_classes:
            raise DecomposeError(
                f"the data has a label {int(batch.labels.max())}, but the networks score "
                f"{self.num_classes} classes"
            )
        return Predictions(batch.places, batch.labels, top.long(), batch.unreadable)

    def _guesses(self, name: str, network: nn.Module, images: Tensor) -> Tensor:
        images = images.to(self.device, next(network.parameters()).dtype, non_blocking=True)
        mixed = torch.autocast(
            self.device.type, self.precision or torch.bfloat16, enabled=self.precision is not None
        )
        with mixed:
            scores = network(images)
        if not isinstance(scores, Tensor):
            raise DecomposeError(f"{name}: gives a {type(scores).__name__}, not class scores")
        if scores.ndim != 2:
            raise DecomposeError(
                f"{name}: gives an output of shape {tuple(scores.shape[1:])} for a picture, not "
                "one score a class"
            )
        self.num_classes = self.num_classes or scores.shape[1]
        if scores.shape[1] != self.num_classes:
            raise DecomposeError(
                f"{name}: scores {scores.shape[1]} classes, but there are {self.num_classes} "
                "(class folders, or classes of the first network)"
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
