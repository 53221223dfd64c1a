"""The loop: steps, epochs, checkpoints, and going on from one as if nothing had happened.

A run's state is its weights, the optimiser's, the schedule's, and where it stands. Nothing that is drawn
has a state to lose: the order of pictures, their cuts and the network's own draws (dropout) follow from
the seed, the step and the process. So a checkpoint is the first process's alone, and any number of them
may go on from it.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import Tensor

from decompose.data.images import ImageDataset
from decompose.layers.batchnorm import reestimate_
from decompose.models import serialization
from decompose.training.augmentation import AugmentedImages, TrainBatch
from decompose.training.batch_order import BatchOrder
from decompose.training.checkpoints import Checkpoints
from decompose.training.objective import Objective
from decompose.training.optimizer import make_optimiser, make_schedule
from decompose.training.state import Epoch, TrainingState
from decompose.training.validation import Validator
from decompose.utils.errors import DecomposeError
from decompose.utils.hashing import weights_digest
from decompose.utils.progress import watching
from decompose.utils.random import draw_seed

if TYPE_CHECKING:
    from accelerate import Accelerator

_NUM_STATISTICS, _TOGETHER = 1024, 128
"""Pictures that normalisations are re-estimated on, and how many pass together, at most."""


@dataclass(frozen=True)
class Material:
    """What a run trains and is judged on.

    Attributes:
        order: of the pictures.
        draws: pictures to train on, as drawn.
        plain: the same as the network is judged, for the statistics of normalisations.
        judge: of held-out pictures.
    """

    order: BatchOrder
    draws: AugmentedImages
    plain: ImageDataset
    judge: Validator

    def first_draw(self) -> TrainBatch:
        """The first picture of the first epoch."""
        first = self.order.batch(0, 0)[:1]
        return next(iter(self.draws.batches(0, [first], 0)))


class Training:
    """One run.

    Args:
        accelerator: that devices, processes and precision are left to.
        lesson: the network, which is trained in place, and its loss; on the accelerator's device.
        material: the pictures.
        checkpoints: where states are kept.
        key: of the run, kept with its states.
        tell: is called with a line an epoch.

    Raises:
        DecomposeError: nothing in the network requires a gradient.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        lesson: Objective,
        material: Material,
        checkpoints: Checkpoints,
        key: Mapping[str, str],
        tell: Callable[[str], None],
    ) -> None:
        self.accelerator, self.lesson, self.material = accelerator, lesson, material
        self.checkpoints, self.key, self.tell = checkpoints, key, tell
        self.network, self.recipe = lesson.student, lesson.recipe
        self.processes = material.judge.processes
        self.order = material.order
        self.standing = TrainingState()
        optimiser = make_optimiser(self.network, self.recipe)
        self.schedule = make_schedule(optimiser, self.recipe, self.order.steps)
        self.model, self.optimiser = accelerator.prepare(self.network, optimiser)
        self._saved_at = time.monotonic()

    def state(self) -> dict[str, Any]:
        """All that a run needs to go on."""
        scaler = self.accelerator.scaler
        return {
            "key": dict(self.key),
            "model": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "standing": asdict(self.standing),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` told."""
        self.network.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.standing = TrainingState.of(state["standing"])

    def run(self) -> None:
        """Train to the end, or until the score has not risen for the recipe's patience.

        Raises:
            DecomposeError: the loss is not finite, or a checkpoint cannot be written.
        """
        standing = self.standing
        if standing.epoch == standing.step == 0:
            # Rewriting has changed what normalisations see.
            reestimate_(self.network, self._statistics_batches())
            self.keep()
        while standing.epoch < self.recipe.epochs:
            if standing.is_exhausted(self.recipe.patience):
                return
            self._train_epoch()
            self._end_epoch()

    def keep(self) -> None:
        """Write a checkpoint, in the first process.

        Raises:
            DecomposeError: weights are not finite, or it cannot be written.
        """
        if self.processes.is_first():
            for name, tensor in self.network.state_dict().items():
                if not torch.isfinite(tensor).all():
                    raise self._lost(f"{name} is not finite")
            self.checkpoints.keep(self._steps_done(), self.state())
        self._saved_at = time.monotonic()

    def take_best(self) -> None:
        """Give the network the weights of the best epoch, in every process.

        Where their file is damaged, it warns, and the network keeps those of the last epoch.
        """
        state = None
        if self.processes.is_first():
            state = self._weights()
            is_whole = False
            with suppress(OSError, SafetensorError, RuntimeError):
                load_model(self.network, str(self.checkpoints.best))
                is_whole = weights_digest(self.network) == self.standing.digest
            if is_whole:
                state = self._weights()
            else:
                warnings.warn(
                    f"{self.checkpoints.best}: is damaged; taking the last epoch's weights",
                    stacklevel=2,
                )
        self.network.load_state_dict(self.processes.share(state))

    def _weights(self) -> dict[str, Tensor]:
        """A copy on the CPU."""
        state = self.network.state_dict().items()
        return {name: tensor.to("cpu", copy=True) for name, tensor in state}

    def _train_epoch(self) -> None:
        standing, processes, recipe = self.standing, self.processes, self.recipe
        places = self.order.share(
            standing.epoch, standing.step, processes.index, processes.count, recipe.accumulate
        )
        draws = self.material.draws.batches(standing.epoch, list(places), recipe.workers)
        batches, title = iter(draws), f"epoch {standing.epoch + 1} of {recipe.epochs}"
        self.model.train()
        with watching(title, standing.step, self.order.steps) as advance:
            while standing.step < self.order.steps:
                self._take_step(batches)
                loss, hits = standing.means()
                accuracy = f", accuracy {hits:.1%}" if self.lesson.labelled else ""
                advance(f"loss {loss:.4f}{accuracy}")
                if time.monotonic() - self._saved_at >= recipe.seconds_between:
                    self.keep()

    def _take_step(self, batches: Iterator[TrainBatch]) -> None:
        standing, accelerator = self.standing, self.accelerator
        torch.manual_seed(
            draw_seed(self.recipe.seed, standing.epoch, standing.step, self.processes.index)
        )
        found = torch.zeros(2, device=self.processes.device)
        loss, hits = 0.0, 0.0
        for _ in range(self.recipe.accumulate):
            draw = next(batches)
            standing.unreadable.update(draw.unreadable)
            with accelerator.accumulate(self.model):
                found += self._learn(draw)
                if accelerator.sync_gradients:
                    # Before the step, so that the weights are still good where the loss is not.
                    loss, hits = self._means(found / self.recipe.accumulate)
                    if self.recipe.clip:
                        accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
                self.optimiser.step()
                self.optimiser.zero_grad()
        self.schedule.step()
        standing.end_step(loss, hits)
        accelerator.log({"loss of a step": loss}, step=self._steps_done())

    def _learn(self, draw: TrainBatch) -> Tensor:
        """Add a micro-batch's gradients; its loss and hits, ``(2,)``."""
        images = draw.images.to(next(self.network.parameters()), non_blocking=True)
        labels = draw.labels.to(self.processes.device, non_blocking=True)
        with self.accelerator.autocast():
            loss, outputs = self.lesson.loss(self.model, images, labels)
        self.accelerator.backward(loss + self.lesson.penalty())
        told = torch.zeros(2, device=loss.device)
        told[0] = loss.detach()
        if self.lesson.labelled:
            told[1] = _hits(outputs.detach(), labels)
        return told

    def _means(self, found: Tensor) -> tuple[float, float]:
        """A step's loss and hits over all processes.

        Raises:
            DecomposeError: the loss is not finite, in any of them.
        """
        reduced: Any = self.accelerator.reduce(found, reduction="mean")
        loss, hits = reduced.tolist()
        if not math.isfinite(loss):
            raise self._lost(f"the loss is {loss}")
        return loss, hits

    def _lost(self, what: str) -> DecomposeError:
        kept = self.checkpoints.paths()
        good = f"; the last good state is {kept[-1]}" if kept else ""
        return DecomposeError(
            f"step {self.standing.step + 1} of epoch {self.standing.epoch + 1}: {what}{good}; a lower "
            "--learning-rate may help"
        )

    def _end_epoch(self) -> None:
        standing, judge = self.standing, self.material.judge
        reestimate_(self.network, self._statistics_batches())
        score = judge.score(self.network)
        loss, hits = standing.means()
        standing.end_epoch(Epoch(loss, hits if self.lesson.labelled else None, score))
        if standing.best == len(standing.history) - 1 and self.processes.is_first():
            serialization.save(self.network, self.checkpoints.best)
            standing.digest = weights_digest(self.network)
        self.keep()
        self.accelerator.log({"loss": loss, judge.measure: score}, step=self._steps_done())
        self.tell(
            f"epoch {standing.epoch} of {self.recipe.epochs}: loss {loss:.4f}, "
            f"{judge.measure} held out {score:.2%}"
        )

    def _statistics_batches(self) -> Iterator[Tensor]:
        """The same pictures in every process and epoch, in the preprocessing of evaluation."""
        # Whole batches: of a single picture a normalisation may find no variance.
        few = replace(self.order, batch_size=min(self.order.batch_size, _TOGETHER))
        num_batches = min(few.steps, _NUM_STATISTICS // few.batch_size)
        places = [place for step in range(num_batches) for place in few.batch(0, step)]
        parameter = next(self.network.parameters())
        for batch in self.material.plain.batches(few.batch_size, self.recipe.workers, places):
            if len(batch.images):
                yield batch.images.to(parameter)

    def _steps_done(self) -> int:
        return self.standing.epoch * self.order.steps + self.standing.step


def _hits(outputs: Tensor, labels: Tensor) -> Tensor:
    """Share of a batch in its class."""
    from torchmetrics.functional.classification import multiclass_accuracy

    num_classes = outputs.shape[1]
    return multiclass_accuracy(outputs, labels, num_classes, "micro", validate_args=False)
