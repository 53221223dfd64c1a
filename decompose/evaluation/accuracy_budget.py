"""Find the smallest model whose accuracy falls by no more than allowed.

Bisection over the share of MACs (or time) to keep. Statistics are gathered once; every trial is a plan from
them, a repair and a pass over images. Half of the images judge the trials, by the paired difference of
the two models' hits; the other half takes no part until the end and checks the model that won. A trial
passes where the lower end of the 95 % interval is within the allowance, so that few images
allow a small drop only. Labels are used where there are some; otherwise a hit is the original's class.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from decompose.compression.application import apply
from decompose.compression.effort import DEFAULT_EFFORT
from decompose.compression.search.planning import plan
from decompose.compression.search.scoring import measure
from decompose.data.imagenet import NUM_CLASSES, is_imagenet_subset, with_imagenet_labels
from decompose.data.images import ImageDataset
from decompose.evaluation.confidence_intervals import Estimate, paired_difference
from decompose.layers.forward import evaluating
from decompose.models.plans import Plan
from decompose.utils.batches import Batches, Example, moved
from decompose.utils.errors import BudgetError, DecomposeError
from decompose.utils.progress import track

BUDGETS = ("macs", "params", "latency")
NUM_CALIBRATED = 64
"""Images of the judging half that are planned and repaired on where no others are given."""

_BATCH_SIZE = 32


@dataclass(frozen=True)
class Trial:
    """One share of the budget that was tried.

    Attributes:
        share: of the MACs, parameters or time, to keep.
        change: of accuracy on the judging images; ``None`` where no plan meets the share.
    """

    share: float
    change: Estimate | None


@dataclass(frozen=True, eq=False)
class WithinDrop:
    """The smallest model found whose accuracy falls by no more than allowed.

    Attributes:
        model: repaired.
        plan: its plan.
        share: of the MACs, parameters or time, that was asked for.
        change: of accuracy on the images that took no part in the search.
        num_checked: how many those are.
        is_labelled: whether accuracy is that of labels; otherwise agreement with the original.
        trials: in the order in which they were made.
    """

    model: nn.Module
    plan: Plan
    share: float
    change: Estimate
    num_checked: int
    is_labelled: bool
    trials: Sequence[Trial]

    def to_dict(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {
            "share": self.share,
            "change": self.change._asdict(),
            "num_checked": self.num_checked,
            "is_labelled": self.is_labelled,
            "trials": [
                {"share": t.share, "change": None if t.change is None else t.change._asdict()}
                for t in self.trials
            ],
        }


def compress_within_drop(
    model: nn.Module,
    example: Example,
    images: ImageDataset,
    max_drop: float,
    *,
    budget: str = "macs",
    calibrate: Batches | None = None,
    steps: int = 6,
    workers: int = 0,
    **options: Any,
) -> WithinDrop:
    """Find the smallest plan whose accuracy falls by no more than allowed, and apply it.

    Args:
        model: a classifier, ``(batch, 3, H, W)`` to ``(batch, classes)``; left as it was.
        example: one batch, as ``plan`` takes it.
        images: labelled, or without labels, in the model's preprocessing.
        max_drop: share of the images, 0.01 for one point.
        budget: what is to be small: ``macs``, ``params`` or ``latency``.
        calibrate: unlabelled inputs to plan and repair on; by default ``NUM_CALIBRATED`` of the images
            that judge trials.
        steps: trials.
        workers: processes that decode.
        options: of ``plan``, such as ``methods``, ``skip`` and ``engine``.

    Raises:
        DecomposeError: the images are too few to confirm such a drop, no trial kept the accuracy, or a
            setting is out of bounds.
    """
    if budget not in BUDGETS:
        raise DecomposeError(f"budget {budget!r}: choose of {', '.join(BUDGETS)}")
    if not 0 < max_drop < 1:
        raise DecomposeError(f"a drop of {max_drop} is out of bounds: it lies in (0, 1)")
    check, judge = JudgedImages.halves(model, images, workers, max_drop)
    inputs = judge.inputs(model, NUM_CALIBRATED) if calibrate is None else calibrate
    effort = options.get("effort", DEFAULT_EFFORT)
    # Gone through by every trial.
    inputs = list(inputs) if isinstance(inputs, Iterator) else inputs
    scope = {name: options[name] for name in ("methods", "skip", "effort") if name in options}
    statistics = measure(model, example, inputs, **scope)
    trials: list[Trial] = []
    passed: list[tuple[float, Plan]] = []
    low, high = 0.0, 1.0
    newest: nn.Module | None = None
    for _ in track(range(steps), "bisecting"):
        share = (low + high) / 2
        settings: dict[str, Any] = {budget: share, **options}
        change = None
        try:
            chosen = plan(model, example, calibrate=statistics, **settings)
        except BudgetError:
            low = share
        else:
            tried = _applied(chosen, model, inputs, effort)
            change = judge.change(tried)
            if change.low >= -max_drop:
                high, newest = share, tried
                passed.append((share, chosen))
            else:
                low = share
        trials.append(Trial(share, change))
    # Each that passed is smaller than the one before; the check may refuse what the others let pass.
    for share, chosen in reversed(passed):
        small = _applied(chosen, model, inputs, effort) if newest is None else newest
        newest = None
        change = check.change(small)
        if change.low >= -max_drop:
            return WithinDrop(
                small, chosen, share, change, len(check), check.is_labelled, tuple(trials)
            )
    best = max((t.change.low for t in trials if t.change is not None), default=-1.0)
    raise DecomposeError(
        f"no smaller model keeps within {_points(max_drop)} on {len(check)} images: the best may lose "
        f"{_points(-best)}; give more images, or allow more"
    )


def images_needed(max_drop: float) -> int:
    """Number of images that a drop needs to be confirmed, even for a model that never differs.

    >>> images_needed(0.01)
    194
    """
    num = max(1, ceil(1 / max_drop))
    while paired_difference(np.ones(num, bool), np.ones(num, bool)).low < -max_drop:
        num += 1
    return num


@dataclass(frozen=True, eq=False)
class JudgedImages:
    """Images that models are judged on, and the original's hits on them.

    Attributes:
        images: readable ones.
        labels: the class of each image; the original's where the images have none.
        hits: whether the original gives each its class.
        is_labelled: whether the images came with labels.
        workers: processes that decode.
    """

    images: ImageDataset
    labels: np.ndarray
    hits: np.ndarray
    is_labelled: bool
    workers: int

    @classmethod
    def halves(
        cls, model: nn.Module, images: ImageDataset, workers: int, max_drop: float
    ) -> tuple[JudgedImages, JudgedImages]:
        """The half that confirms the result, and the half that judges trials.

        Raises:
            DecomposeError: there are too few images.
        """
        needed = images_needed(max_drop)
        if len(images) // 2 < needed:
            raise DecomposeError(
                f"{len(images)} images cannot confirm a drop of {_points(max_drop)}: it takes "
                f"{2 * needed} at least, half to search and half to check on"
            )
        whole = cls.of(model, images, workers)
        known = {path: at for at, (path, _) in enumerate(whole.images.samples)}
        halves = []
        for half in reversed(whole.images.parted(0.5)):
            at = [known[path] for path, _ in half.samples]
            halves.append(replace(whole, images=half, labels=whole.labels[at], hits=whole.hits[at]))
        return halves[0], halves[1]

    @classmethod
    def of(cls, model: nn.Module, images: ImageDataset, workers: int) -> JudgedImages:
        """The readable images, with what the original makes of them."""
        guesses, num_scored = _guesses(model, images, workers)
        if is_imagenet_subset(images.classes) and num_scored == NUM_CLASSES:
            images = with_imagenet_labels(images)
        labels = np.array([label for _, label in images.samples])
        is_labelled = bool((labels >= 0).all())
        labels = labels if is_labelled else guesses
        readable = np.flatnonzero(guesses >= 0)
        hits = (guesses == labels)[readable]
        return cls(images.chosen(readable), labels[readable], hits, is_labelled, workers)

    def __len__(self) -> int:
        return len(self.labels)

    def change(self, model: nn.Module) -> Estimate:
        """The change of accuracy against the original."""
        guesses, _ = _guesses(model, self.images, self.workers)
        return paired_difference(self.hits, guesses == self.labels)

    def inputs(self, model: nn.Module, num: int) -> list[Tensor]:
        """Some of the images as inputs of a model, in batches."""
        some = self.images.subset(min(num, len(self)))
        batches = some.batches(_BATCH_SIZE, self.workers)
        like = next(model.parameters())
        return [moved(batch.images, like) for batch in batches]


def _guesses(model: nn.Module, images: ImageDataset, workers: int) -> tuple[np.ndarray, int]:
    """The class of the highest score of each image, -1 where it cannot be read; number of classes."""
    found = np.full(len(images), -1)
    num_scored = 0
    like = next(model.parameters())
    with evaluating(model):
        for batch in track(images.batches(_BATCH_SIZE, workers), "judging"):
            if not len(batch.indices):
                continue
            scores = model(moved(batch.images, like))
            if not isinstance(scores, Tensor) or scores.ndim != 2:
                raise DecomposeError("a drop of accuracy is one of classifiers: one score a class")
            if not torch.isfinite(scores).all():
                raise DecomposeError("the model gives scores that are not finite (NaN or Inf)")
            num_scored = scores.shape[1]
            found[batch.indices.numpy()] = scores.argmax(1).cpu().numpy()
    if not num_scored:
        raise DecomposeError("none of the images can be read")
    return found, num_scored


def _applied(chosen: Plan, model: nn.Module, inputs: Batches, effort: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="left as truncated")
        return apply(chosen, model, calibrate=inputs, effort=effort)


def _points(share: float) -> str:
    return f"{100 * share:.2f} points"
