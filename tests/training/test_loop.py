"""The training loop: what it starts from, what it keeps, and where it stops."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from decompose.training.augmentation import AugmentedImages
from decompose.training.batch_order import BatchOrder
from decompose.training.checkpoints import Checkpoints
from decompose.training.finetuning import start
from decompose.training.loop import Training, TrainingData
from decompose.training.objective import Objective
from decompose.training.recipe import Recipe
from decompose.training.validation import Validator
from decompose.utils.distributed import Processes
from decompose.utils.errors import DecomposeError
from tests.training.cases import DRAWN, RECIPE, image_dataset, make_images, models

Made = Callable[..., Training]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Make a run of the tiny model, with given settings, and keep the lines that it reports."""
    images = image_dataset(make_images(tmp_path / "data"))

    def make(lines: list[str] | None = None, *, norm: bool = False, **settings: Any) -> Training:
        recipe = Recipe(**{**vars(RECIPE), **settings})
        accelerator = start(recipe, "cpu", None)
        original, small = models(norm=norm)
        objective = Objective(recipe, small.float().train(), original, True)
        validator = Validator(images, None, Processes(0, 1, torch.device("cpu")), 8, 0)
        order = BatchOrder(len(images), recipe.batch_size, recipe.seed)
        seen = AugmentedImages(images.with_transforms(DRAWN), recipe.seed)
        data = TrainingData(order, seen, images, validator)
        report = (lambda _: None) if lines is None else lines.append
        return Training(accelerator, objective, data, Checkpoints(tmp_path / "run"), {}, report)

    return make


def test_a_run_reports_each_epoch_and_keeps_its_best(made: Made) -> None:
    lines: list[str] = []
    run = made(lines, epochs=2)
    run.run()
    wanted = ["before training", "epoch 1 of 2", "epoch 2 of 2"]
    assert [line.split(":")[0] for line in lines] == wanted
    assert (run.state.epoch, run.state.step, len(run.state.history)) == (2, 0, 2)
    assert run.checkpoints.best.exists()


def test_a_state_restores_the_run_it_was_taken_of(made: Made) -> None:
    run = made(epochs=1)
    run.run()
    other = made(epochs=1)
    other.restore(run.state_dict())
    assert other.state == run.state
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], tensor), name


def test_training_stops_where_the_score_rises_no_more(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.8, 0.5, 0.4, 0.3, 0.9])
    monkeypatch.setattr(Validator, "score", lambda *_: next(scores))
    run = made(epochs=4, patience=2)
    run.run()
    assert [epoch.score for epoch in run.state.history] == [0.5, 0.4, 0.3]
    assert run.state.best == 0
    assert run.state.before == 0.8


def test_the_best_weights_are_taken_in_the_end(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[dict[str, torch.Tensor]] = []

    def score(_: Validator, model: torch.nn.Module) -> float:
        kept.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return 1.0 if len(kept) == 2 else 0.0

    monkeypatch.setattr(Validator, "score", score)
    run = made(epochs=2)
    run.run()
    run.take_best()
    _, first, last = kept
    assert any(not torch.equal(first[name], last[name]) for name in first)
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, first[name]), name


@pytest.mark.parametrize("augmented_scores", [0.9, 0.5], ids=["augmented", "plain"])
def test_statistics_are_of_the_images_that_score_higher(
    augmented_scores: float, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.0, 0.7, augmented_scores])
    monkeypatch.setattr(Validator, "score", lambda *_: next(scores))
    run = made(norm=True, epochs=1)
    run.run()
    assert run.state.history[0].score == max(0.7, augmented_scores)
    indices = [run.order.batch(0, step) for step in range(run.order.steps)]
    batches = run.data.augmented.batches(0, indices, 0)
    if augmented_scores < 0.7:
        batches = run.data.plain.batches(4, indices=list(chain(*indices)))
    images = torch.cat([batch.images for batch in batches])
    wanted = run.model.get_submodule("features.0")(images).mean((0, 2, 3))
    torch.testing.assert_close(run.model.get_buffer("features.1.running_mean"), wanted)


def test_weights_that_are_not_finite_are_never_kept(made: Made) -> None:
    run = made()
    next(run.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(DecomposeError, match="is not finite"):
        run.keep()
    assert not run.checkpoints.paths()


@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_statistics_stay(made: Made, freeze: bool) -> None:
    run = made(norm=True, epochs=1, freeze_batchnorm=freeze)
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    run.run()
    after = run.model.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    statistics = {name for name in before if "running" in name}
    assert statistics
    assert statistics <= same if freeze else not statistics & same
    assert not any(name.endswith("weight") for name in same)


def test_mixed_images_train_otherwise_and_repeat(made: Made) -> None:
    ends = []
    for alpha in (0.0, 1.0, 1.0):
        run = made(epochs=1, mixup=alpha)
        run.run()
        ends.append(torch.cat([p.detach().flatten() for p in run.model.parameters()]))
    assert torch.equal(ends[1], ends[2])
    assert not torch.equal(ends[0], ends[1])
