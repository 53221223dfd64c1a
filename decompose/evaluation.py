"""How good a classifier is: top-1 and top-5 accuracy over pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from decompose.data import Pictures
from decompose.errors import DecomposeError
from decompose.layers import evaluating
from decompose.progress import track

_TOP = 5


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 accuracy over a folder of pictures.

    Attributes:
        top1: share of the pictures read whose class has the highest score.
        top5: share whose class is among the five highest; ``None`` with fewer than six classes.
        num_pictures: pictures read.
        num_classes: classes of the data.
        unreadable: pictures that could not be read, by path, with the reason; they count nowhere.
    """

    top1: float
    top5: float | None
    num_pictures: int
    num_classes: int
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return asdict(self)


def evaluate(
    model: nn.Module,
    pictures: Pictures,
    *,
    batch_size: int = 32,
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> Accuracy:
    """Measure a classifier's accuracy.

    Args:
        model: ``(batch, 3, H, W)`` to ``(batch, classes)``; it is moved to ``device``.
        pictures: labelled pictures.
        batch_size: pictures at a time.
        workers: processes that decode pictures.
        device: where the network runs.

    Raises:
        DecomposeError: the network gives no class scores or has another number of classes, or no
            picture could be read.
    """
    from torchmetrics.classification import MulticlassAccuracy

    num_classes = len(pictures.classes)
    dtype = next(model.parameters()).dtype
    metrics: dict[int, MulticlassAccuracy] = {}
    unreadable: dict[str, str] = {}
    num_pictures = 0
    loader = pictures.batches(batch_size, workers)
    model.to(device)
    with evaluating(model):
        for batch in track(loader, "evaluating", total=len(loader)):
            unreadable |= batch.unreadable
            if not len(batch.images):
                continue
            scores = model(batch.images.to(device, dtype))
            if not isinstance(scores, Tensor):
                raise DecomposeError(
                    f"the network gives a {type(scores).__name__}, not class scores"
                )
            scores = scores.float().cpu()
            if not metrics:
                _require_classes(scores, num_classes)
                metrics = {
                    k: MulticlassAccuracy(num_classes, top_k=k, average="micro")
                    for k in (1, _TOP)
                    if k == 1 or k < num_classes
                }
            _require_finite(scores)
            for metric in metrics.values():
                metric.update(scores, batch.labels)
            num_pictures += len(batch.labels)
    if not num_pictures:
        path, reason = next(iter(unreadable.items()))
        raise DecomposeError(f"no picture could be read; the first is {path}: {reason}")
    accuracies = {k: float(metric.compute()) for k, metric in metrics.items()}
    return Accuracy(accuracies[1], accuracies.get(_TOP), num_pictures, num_classes, unreadable)


def _require_finite(scores: Tensor) -> None:
    if not torch.isfinite(scores).all():
        raise DecomposeError("the network gives scores that are not finite (NaN or Inf)")


def _require_classes(scores: Tensor, num_classes: int) -> None:
    if scores.ndim != 2:
        raise DecomposeError(
            f"the network gives an output of shape {tuple(scores.shape[1:])} for a picture, not "
            "one score a class"
        )
    if scores.shape[1] != num_classes:
        raise DecomposeError(
            f"the data has {num_classes} class folders, but the network scores {scores.shape[1]} "
            "classes"
        )
