"""The state of a training run: epoch, step and history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Epoch:
    """Loss and scores of one epoch.

    Attributes:
        loss: mean over its steps, decay left out.
        accuracy: share of its images, as augmented, that the model put in their class while it
            trained; ``None`` without labels.
        score: on the images held out, after it.
    """

    loss: float
    accuracy: float | None
    score: float


@dataclass
class TrainingState:
    """Epoch, step and history of a run.

    Attributes:
        epoch: that it is in, from 0.
        step: of the epoch, the next to be done.
        before: score on the images held out before the first step; ``None`` until it is known.
        history: of the epochs that are over.
        digest: of the best epoch's weights.
        unreadable: images that others stood in for, by path, with the reason.
        loss: sum over the epoch's steps.
        hits: sum over the epoch's steps of the share of their images in their class.
    """

    epoch: int = 0
    step: int = 0
    before: float | None = None
    history: list[Epoch] = field(default_factory=list)
    digest: str = ""
    unreadable: dict[str, str] = field(default_factory=dict)
    loss: float = 0.0
    hits: float = 0.0

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> TrainingState:
        """Read the result of ``asdict``."""
        history = [Epoch(**epoch) for epoch in content["history"]]
        return cls(**{**content, "history": history})

    def end_step(self, loss: float, hits: float) -> None:
        """Count a finished step."""
        self.step, self.loss, self.hits = self.step + 1, self.loss + loss, self.hits + hits

    def means(self) -> tuple[float, float]:
        """Mean loss and hits of the epoch's steps so far."""
        return self.loss / self.step, self.hits / self.step

    def end_epoch(self, epoch: Epoch) -> None:
        """Count a finished epoch, and begin the next."""
        self.history.append(epoch)
        self.epoch, self.step, self.loss, self.hits = self.epoch + 1, 0, 0.0, 0.0

    @property
    def best(self) -> int:
        """Index in the history of the best score, the last of equals: steps have become smaller."""
        return max(range(len(self.history)), key=lambda index: (self.history[index].score, index))

    def is_exhausted(self, patience: int | None) -> bool:
        """Whether the score has not risen for ``patience`` epochs."""
        if patience is None or not self.history:
            return False
        scores = [epoch.score for epoch in self.history]
        return len(scores) - 1 - scores.index(max(scores)) >= patience
