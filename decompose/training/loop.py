"""Train step by step and epoch by epoch, write checkpoints, and resume from them.

A run's state is its weights, the optimiser's, the schedule's, and its position. Nothing random
has a state to lose: the order of images, their crops and the model's own draws (dropout) follow from
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
from decompose.layers.batchnorm import has_statistics, reestimate_, running_norms
from decompose.layers.forward import evaluating, takes_channels_last
from decompose.models import serialization
from decompose.training.augmentation import AugmentedImages, TrainBatch
from decompose.training.batch_order import BatchOrder
from decompose.training.checkpoints import Checkpoints
from decompose.training.mixup import Mixture
from decompose.training.objective import Objective
from decompose.training.optimizer import make_optimiser, make_schedule
from decompose.training.state import Epoch, TrainingState
from decompose.training.validation import Validator
from decompose.utils.batches import in_channels_last
from decompose.utils.errors import DecomposeError, first_line
from decompose.utils.hashing import weights_digest
from decompose.utils.progress import watching
from decompose.utils.random import draw_seed

if TYPE_CHECKING:
    from accelerate import Accelerator

_NUM_STATISTICS, _TOGETHER = 1024, 128
"""Images that normalisations are re-estimated on, and how many pass together, at most."""


@dataclass(frozen=True)
class TrainingData:
    """The images that a run trains and validates on.

    Attributes:
        order: of the images.
        augmented: images to train on, cropped and flipped.
        plain: the same in the preprocessing of evaluation.
        validator: of held-out images.
    """

    order: BatchOrder
    augmented: AugmentedImages
    plain: ImageDataset
    validator: Validator

    def first_image(self) -> TrainBatch:
        """The first image of the first epoch."""
        first = self.order.batch(0, 0)[:1]
        return next(iter(self.augmented.batches(0, [first], 0)))


class Training:
    """A training run.

    Args:
        accelerator: that devices, processes and precision are left to.
        objective: the model, which is trained in place, and its loss; on the accelerator's device.
        data: the images.
        checkpoints: where states are kept.
        key: of the run, kept with its states.
        report: called with a line an epoch.

    Raises:
        DecomposeError: nothing in the model requires a gradient.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        objective: Objective,
        data: TrainingData,
        checkpoints: Checkpoints,
        key: Mapping[str, str],
        report: Callable[[str], None],
    ) -> None:
        self.accelerator, self.objective, self.data = accelerator, objective, data
        self.checkpoints, self.key, self.report = checkpoints, key, report
        self.model, self.recipe = objective.student, objective.recipe
        self.processes = data.validator.processes
        self.order = data.order
        self.state = TrainingState()
        optimiser = make_optimiser(self.model, self.recipe)
        self.schedule = make_schedule(optimiser, self.recipe, self.order.steps)
        self.wrapped, self.optimiser = accelerator.prepare(self.model, optimiser)
        self._saved_at = time.monotonic()
        self._is_channels_last: bool | None = None

    def state_dict(self) -> dict[str, Any]:
        """The state that a run resumes from."""
        scaler = self.accelerator.scaler
        return {
            "key": dict(self.key),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "standing": asdict(self.state),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Resume from a ``state_dict``.

        Raises:
            DecomposeError: it is the state of another run, or none.
        """
        try:
            self._restore(state)
        # A file may hold anything under a run's key.
        except Exception as error:  # noqa: BLE001
            raise DecomposeError(
                f"{self.checkpoints.folder}: holds no state of this run ({first_line(error)}); remove it"
            ) from None

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.state = TrainingState.of(state["standing"])

    def run(self) -> None:
        """Train to the end, or until the score has not risen for the recipe's patience.

        Raises:
            DecomposeError: the loss is not finite, or a checkpoint cannot be written.
        """
        state = self.state
        if state.epoch == state.step == 0:
            state.before = self.data.validator.score(self.model)
            self.report(f"before training: {self._in_words(state.before)}")
            self.keep()
        while state.epoch < self.recipe.epochs:
            if state.is_exhausted(self.recipe.patience):
                return
            self._train_epoch()
            self._end_epoch()

    def keep(self) -> None:
        """Write a checkpoint, in the first process.

        Raises:
            DecomposeError: weights are not finite, or it cannot be written.
        """
        if self.processes.is_first():
            for name, tensor in self.model.state_dict().items():
                if not torch.isfinite(tensor).all():
                    raise self._lost(f"{name} is not finite")
            self.checkpoints.keep(self._steps_done(), self.state_dict())
        self._saved_at = time.monotonic()

    def take_best(self) -> None:
        """Give the model the weights of the best epoch, in every process.

        Where their file is damaged, it warns, and the model keeps those of the last epoch.
        """
        state = None
        if self.processes.is_first():
            state = self._weights()
            is_whole = False
            with suppress(OSError, SafetensorError, RuntimeError):
                load_model(self.model, str(self.checkpoints.best))
                is_whole = weights_digest(self.model) == self.state.digest
            if is_whole:
                state = self._weights()
            else:
                warnings.warn(
                    f"{self.checkpoints.best}: is damaged; taking the last epoch's weights",
                    stacklevel=2,
                )
        self.model.load_state_dict(self.processes.share(state))

    def _weights(self) -> dict[str, Tensor]:
        """A copy on the CPU."""
        state = self.model.state_dict().items()
        return {name: tensor.to("cpu", copy=True) for name, tensor in state}

    def _train_epoch(self) -> None:
        state, processes, recipe = self.state, self.processes, self.recipe
        indices = self.order.share(
            state.epoch, state.step, processes.index, processes.count, recipe.accumulate
        )
        augmented = self.data.augmented.batches(state.epoch, list(indices), recipe.workers)
        batches, title = iter(augmented), f"epoch {state.epoch + 1} of {recipe.epochs}"
        self.wrapped.train()
        if recipe.freeze_batchnorm:
            for norm in running_norms(self.model):
                norm.eval()
        with watching(title, state.step, self.order.steps) as advance:
            while state.step < self.order.steps:
                self._take_step(batches)
                loss, hits = state.means()
                accuracy = f", accuracy {hits:.1%}" if self.objective.labelled else ""
                advance(f"loss {loss:.4f}{accuracy}")
                if time.monotonic() - self._saved_at >= recipe.seconds_between:
                    self.keep()

    def _take_step(self, batches: Iterator[TrainBatch]) -> None:
        state, accelerator = self.state, self.accelerator
        torch.manual_seed(
            draw_seed(self.recipe.seed, state.epoch, state.step, self.processes.index)
        )
        found = torch.zeros(2, device=self.processes.device)
        loss, hits = 0.0, 0.0
        for _ in range(self.recipe.accumulate):
            batch = next(batches)
            state.unreadable.update(batch.unreadable)
            with accelerator.accumulate(self.wrapped):
                found += self._learn(batch)
                if accelerator.sync_gradients:
                    # Before the step, so that the weights are still good where the loss is not.
                    loss, hits = self._means(found / self.recipe.accumulate)
                    if self.recipe.clip:
                        accelerator.clip_grad_norm_(self.wrapped.parameters(), self.recipe.clip)
                self.optimiser.step()
                self.optimiser.zero_grad()
        self.schedule.step()
        state.end_step(loss, hits)
        accelerator.log({"loss of a step": loss}, step=self._steps_done())

    def _learn(self, batch: TrainBatch) -> Tensor:
        """Add a micro-batch's gradients; its loss and hits, ``(2,)``."""
        parameter = next(self.model.parameters())
        images = batch.images.to(parameter, non_blocking=True)
        if self._take_channels_last(images[:1]):
            images = in_channels_last(images)
        labels = batch.labels.to(self.processes.device, non_blocking=True)
        mixture = None
        if self.recipe.mixup:
            mixture = Mixture.drawn(len(images), self.recipe.mixup, images.device)
            images = mixture.applied(images)
        with self.accelerator.autocast():
            loss, outputs = self.objective.loss(self.wrapped, images, labels, mixture)
        self.accelerator.backward(loss + self.objective.penalty())
        found = torch.zeros(2, device=loss.device)
        found[0] = loss.detach()
        if self.objective.labelled:
            found[1] = _hits(outputs.detach(), labels)
        return found

    def _take_channels_last(self, image: Tensor) -> bool:
        """Whether model and teacher take images laid out so, asked once."""
        if self._is_channels_last is None:
            teacher = self.objective.teacher
            models = [self.model] if teacher is None else [self.model, teacher]
            with evaluating(*models):
                self._is_channels_last = all(takes_channels_last(m, image) for m in models)
        return self._is_channels_last

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
            f"step {self.state.step + 1} of epoch {self.state.epoch + 1}: {what}{good}; a lower "
            "--learning-rate may help"
        )

    def _end_epoch(self) -> None:
        state = self.state
        score = self._settle()
        loss, hits = state.means()
        state.end_epoch(Epoch(loss, hits if self.objective.labelled else None, score))
        if state.best == len(state.history) - 1 and self.processes.is_first():
            serialization.save(self.model, self.checkpoints.best)
            state.digest = weights_digest(self.model)
        self.keep()
        measure = self.data.validator.measure
        self.accelerator.log({"loss": loss, measure: score}, step=self._steps_done())
        self.report(
            f"epoch {state.epoch} of {self.recipe.epochs}: loss {loss:.4f}, {self._in_words(score)}"
        )

    def _in_words(self, score: float) -> str:
        return f"{self.data.validator.measure} held out {score:.2%}"

    def _settle(self) -> float:
        """Re-estimate normalisations on images as augmented or as evaluated; the higher of both scores."""
        score = self.data.validator.score
        if self.recipe.freeze_batchnorm or not has_statistics(self.model):
            return score(self.model)
        # Images as evaluated look larger than random crops (Touvron et al. 2019, arXiv 1906.06423, section
        # 3), but lack the borders of padded ones, which the weights are used to.
        reestimate_(self.model, self._plain_batches())
        plain = score(self.model)
        reestimate_(self.model, self._augmented_batches())
        augmented = score(self.model)
        if plain > augmented:
            reestimate_(self.model, self._plain_batches())
        return max(plain, augmented)

    def _plain_batches(self) -> Iterator[Tensor]:
        """Images in the preprocessing of evaluation, the same in every process and epoch."""
        parts = self._statistics_indices()
        flat = [index for part in parts for index in part]
        for batch in self.data.plain.batches(len(parts[0]), self.recipe.workers, flat):
            if len(batch.images):
                yield batch.images.to(next(self.model.parameters()))

    def _augmented_batches(self) -> Iterator[Tensor]:
        """The same images, augmented as in the first epoch."""
        parts = self._statistics_indices()
        for batch in self.data.augmented.batches(0, parts, self.recipe.workers):
            yield batch.images.to(next(self.model.parameters()))

    def _statistics_indices(self) -> list[list[int]]:
        """The images of each batch that normalisations are re-estimated on."""
        # Whole batches: of a single image a normalisation may find no variance.
        few = replace(self.order, batch_size=min(self.order.batch_size, _TOGETHER))
        num_batches = min(few.steps, _NUM_STATISTICS // few.batch_size)
        return [few.batch(0, step) for step in range(num_batches)]

    def _steps_done(self) -> int:
        return self.state.epoch * self.order.steps + self.state.step


def _hits(outputs: Tensor, labels: Tensor) -> Tensor:
    """Share of a batch in its class."""
    from torchmetrics.functional.classification import multiclass_accuracy

    num_classes = outputs.shape[1]
    return multiclass_accuracy(outputs, labels, num_classes, "micro", validate_args=False)
