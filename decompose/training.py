"""The loop: steps, epochs, checkpoints, and going on from one as if nothing had happened.

A run's state is its weights, the optimiser's, the schedule's, and where it stands. Nothing that is drawn
has a state to lose: the order of pictures, their cuts and the network's own draws (dropout) follow from
the seed, the step and the process.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from decompose import models
from decompose.augmentation import Draw, Draws
from decompose.checkpoints import Checkpoints
from decompose.errors import DecomposeError
from decompose.factors import parameter_groups
from decompose.judging import Judge
from decompose.lessons import Lesson
from decompose.norms import reestimate_
from decompose.order import Order, draw_seed
from decompose.pictures import Pictures
from decompose.progress import watching
from decompose.provenance import weights_digest
from decompose.recipes import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

_MOST_STATISTICS = 1024
"""Pictures that normalisations are re-estimated on, or one batch where that is larger."""

_START = 0.01
"""Share of the learning rate that warm-up begins with."""


@dataclass(frozen=True)
class Epoch:
    """What came of one epoch.

    Attributes:
        loss: mean over its steps, decay left out.
        accuracy: share of its pictures, as drawn, that the network put in their class while it
            trained; ``None`` without labels.
        score: on the pictures held out, after it.
    """

    loss: float
    accuracy: float | None
    score: float


@dataclass
class Standing:
    """Where a run stands.

    Attributes:
        epoch: that it is in, from 0.
        step: of the epoch, the next to be done.
        history: of the epochs that are over.
        best: index in the history of the best score, the first of equals.
        unreadable: pictures that others stood in for, by path, with the reason.
        digest: of the best weights.
    """

    epoch: int = 0
    step: int = 0
    history: list[Epoch] = field(default_factory=list)
    best: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    digest: str = ""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Standing:
        """What ``asdict`` made of one."""
        history = [Epoch(**epoch) for epoch in content["history"]]
        return cls(**{**content, "history": history})


class Training:
    """One run.

    Args:
        accelerator: that devices, processes and precision are left to.
        network: that is trained, in place; it is on the accelerator's device.
        lesson: its loss.
        draws: the pictures to train on.
        plain: the same as they are judged, for the statistics of normalisations.
        judge: of held-out pictures.
        checkpoints: where states are kept.
        key: of the run; a state of another is refused.
        tell: is called with a line an epoch.

    Raises:
        DecomposeError: the pictures are fewer than a batch, or nothing requires a gradient.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        network: nn.Module,
        lesson: Lesson,
        draws: Draws,
        plain: Pictures,
        judge: Judge,
        checkpoints: Checkpoints,
        key: Mapping[str, str],
        tell: Callable[[str], None],
    ) -> None:
        self.recipe = lesson.recipe
        self.processes = judge.processes
        self.order = Order(len(draws.pictures), self.recipe.batch_size, self.recipe.seed)
        self.accelerator, self.network, self.lesson = accelerator, network, lesson
        self.draws, self.plain, self.judge = draws, plain, judge
        self.checkpoints, self.key, self.tell = checkpoints, key, tell
        self.standing = Standing()
        optimiser = make_optimiser(network, self.recipe)
        self.schedule = make_schedule(optimiser, self.recipe, self.order.steps)
        self.model, self.optimiser = accelerator.prepare(network, optimiser)
        self.meters = _meters()
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
            "meters": self.meters.state_dict(),
            "standing": asdict(self.standing),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` told."""
        self.network.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.meters.load_state_dict(state["meters"])
        self.standing = Standing.of(state["standing"])

    def run(self) -> None:
        """Train to the end, or until the score has not risen for the recipe's patience.

        Raises:
            DecomposeError: the loss is not finite, or a checkpoint cannot be written.
        """
        if self.standing.epoch == self.standing.step == 0:
            # Rewriting has changed what normalisations see.
            reestimate_(self.network, self._statistics_batches())
            self.keep()
        while self.standing.epoch < self.recipe.epochs and not self.is_exhausted():
            self._train_epoch()
            self._end_epoch()

    def is_exhausted(self) -> bool:
        """Whether the score has not risen for as many epochs as the recipe has patience."""
        patience, history = self.recipe.patience, self.standing.history
        return patience is not None and len(history) - 1 - self.standing.best >= patience > 0

    def keep(self) -> None:
        """Write a checkpoint, by the first process.

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
            state = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
            is_whole = False
            with suppress(OSError, SafetensorError, RuntimeError):
                load_model(self.network, str(self.checkpoints.best))
                is_whole = weights_digest(self.network) == self.standing.digest
            if is_whole:
                state = dict(self.network.state_dict())
            else:
                warnings.warn(
                    f"{self.checkpoints.best}: is damaged; taking the last epoch's weights",
                    stacklevel=2,
                )
        self.network.load_state_dict(self.processes.share(state))

    def _train_epoch(self) -> None:
        standing, processes = self.standing, self.processes
        places = self.order.share(
            standing.epoch, standing.step, processes.index, processes.count, self.recipe.accumulate
        )
        batches = iter(self.draws.batches(standing.epoch, list(places), self.recipe.workers))
        title = f"epoch {standing.epoch + 1} of {self.recipe.epochs}"
        self.model.train()
        with watching(title, standing.step, self.order.steps) as advance:
            while standing.step < self.order.steps:
                self._take_step(batches)
                loss, hits = (float(meter.compute()) for meter in self.meters.values())
                accuracy = f", accuracy {hits:.1%}" if self.lesson.labelled else ""
                advance(f"loss {loss:.4f}{accuracy}")
                if time.monotonic() - self._saved_at >= self.recipe.seconds_between:
                    self.keep()

    def _take_step(self, batches: Iterator[Draw]) -> None:
        standing, recipe = self.standing, self.recipe
        torch.manual_seed(
            draw_seed(recipe.seed, standing.epoch, standing.step, self.processes.index)
        )
        told = torch.zeros(2, device=self.processes.device)
        for _ in range(recipe.accumulate):
            draw = next(batches)
            standing.unreadable.update(draw.unreadable)
            images = draw.images.to(next(self.network.parameters()), non_blocking=True)
            labels = draw.labels.to(self.processes.device, non_blocking=True)
            with self.accelerator.accumulate(self.model):
                with self.accelerator.autocast():
                    loss, outputs = self.lesson.loss(self.model, images, labels)
                self.accelerator.backward(loss + self.lesson.penalty())
                told += torch.stack([loss.detach(), _hits(outputs, labels)]) / recipe.accumulate
                if self.accelerator.sync_gradients:
                    self._require_finite(told)
                    if recipe.clip is not None:
                        self.accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip)
                self.optimiser.step()
                self.optimiser.zero_grad()
        self.schedule.step()
        standing.step += 1

    def _require_finite(self, told: Tensor) -> None:
        """Count a step's loss and hits, once they are known to be numbers in every process."""
        found = self.accelerator.reduce(told, reduction="mean").tolist()  # type: ignore[union-attr]
        if not math.isfinite(found[0]):
            raise self._lost(f"the loss is {found[0]}")
        for meter, value in zip(self.meters.values(), found, strict=True):
            meter.update(value)

    def _lost(self, what: str) -> DecomposeError:
        kept = self.checkpoints.paths()
        good = f"; the last good state is {kept[-1]}" if kept else ""
        return DecomposeError(
            f"step {self.standing.step + 1} of epoch {self.standing.epoch + 1}: {what}{good}; a lower "
            "--learning-rate may help"
        )

    def _end_epoch(self) -> None:
        standing = self.standing
        reestimate_(self.network, self._statistics_batches())
        score = self.judge.score(self.network)
        loss, hits = (float(meter.compute()) for meter in self.meters.values())
        standing.history.append(Epoch(loss, hits if self.lesson.labelled else None, score))
        scores = [epoch.score for epoch in standing.history]
        standing.best = scores.index(max(scores))
        if standing.best == standing.epoch and self.processes.is_first():
            models.save(self.network, self.checkpoints.best)
            standing.digest = weights_digest(self.network)
        self._tell()
        standing.epoch, standing.step = standing.epoch + 1, 0
        for meter in self.meters.values():
            meter.reset()
        self.keep()

    def _statistics_batches(self) -> Iterator[Tensor]:
        """The same pictures in every process and epoch, in the preprocessing of evaluation."""
        num_steps = min(self.order.steps, max(1, _MOST_STATISTICS // self.order.batch_size))
        places = [place for step in range(num_steps) for place in self.order.batch(0, step)]
        parameter = next(self.network.parameters())
        for batch in self.plain.batches(self.judge.batch_size, self.recipe.workers, places):
            if len(batch.images):
                yield batch.images.to(parameter)

    def _tell(self) -> None:
        last = self.standing.history[-1]
        figures = {"loss": last.loss, self.judge.measure: last.score}
        rate = self.optimiser.param_groups[0]["lr"]
        self.accelerator.log({**figures, "learning rate": rate}, step=self._steps_done())
        told = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        self.tell(f"epoch {self.standing.epoch + 1} of {self.recipe.epochs}: {told}")

    def _steps_done(self) -> int:
        return self.standing.epoch * self.order.steps + self.standing.step


def make_optimiser(network: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimiser of a network, without decay of factors."""
    groups = parameter_groups(network, recipe.weight_decay)
    if recipe.optimiser == "adamw":
        return AdamW(groups, lr=recipe.peak)
    return SGD(groups, lr=recipe.peak, momentum=0.9, nesterov=True)


def make_schedule(optimiser: Optimizer, recipe: Recipe, steps_an_epoch: int) -> LRScheduler:
    """A linear rise, then a cosine down to nothing (Goyal et al. 2017; Loshchilov and Hutter 2017)."""
    total = recipe.epochs * steps_an_epoch
    rising = min(round(recipe.warmup * total), total - 1)
    falling = CosineAnnealingLR(optimiser, total - rising)
    if not rising:
        return falling
    return SequentialLR(optimiser, [LinearLR(optimiser, _START, 1.0, rising), falling], [rising])


def _hits(outputs: Tensor, labels: Tensor) -> Tensor:
    """Share of a batch in its class; 0 without labels."""
    if outputs.ndim != 2:
        return outputs.new_zeros(())
    return (outputs.argmax(1) == labels).float().mean()


def _meters() -> nn.ModuleDict:
    """Means of loss and hits over an epoch's steps, which the same figures reach in every process."""
    from torchmetrics import MeanMetric

    meters = {name: MeanMetric("disable", sync_on_compute=False) for name in ("loss", "hits")}
    for meter in meters.values():
        meter.persistent(True)
    return nn.ModuleDict(meters)
