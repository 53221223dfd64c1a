"""Finetuning wins something back, repeats bit for bit, and loses nothing on the way."""

import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

import decompose
from decompose import DecomposeError
from decompose.models.conversion import plan_of
from decompose.training import finetuning
from decompose.training.checkpoints import Checkpoints
from decompose.training.finetuning import Finetuned
from decompose.training.objective import Objective
from decompose.training.validation import Validator
from decompose.utils.distributed import Processes
from decompose.utils.hashing import weights_digest
from tests.models.onnx.cases import read, small_cnn
from tests.support.models import Viewing
from tests.training.cases import (
    DRAWN,
    RECIPE,
    SIZE,
    Tiny,
    image_dataset,
    make_images,
    models,
    tuned,
)

NORMED = {"norm": True, "dropout": 0.3}
"""A model whose steps draw at random, and with statistics to be estimated."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("finetuning") / "data")


@pytest.fixture(scope="module")
def whole(data: Path) -> Finetuned:
    """A run that nothing happened to."""
    return tuned(data, kind=NORMED)


def digest(found: Finetuned) -> str:
    return weights_digest(found.network)


def fail_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Let the loss be NaN in one batch, counted from 1, and not after it."""
    loss, calls = Objective.loss, [0]

    def failing(self: Objective, *inputs: Any) -> Any:
        value, outputs = loss(self, *inputs)
        calls[0] += 1
        return value * (float("nan") if calls[0] >= call else 1), outputs

    monkeypatch.setattr(Objective, "loss", failing)


def test_labels_teach(data: Path) -> None:
    recipe = replace(RECIPE, epochs=8, holdout=0.25)
    found = tuned(data, recipe=recipe, taught=False)
    assert found.measure == "accuracy"
    assert found.history[found.best].score > 0.6
    assert found.history[-1].loss < found.history[0].loss
    assert not found.network.training
    assert "(best)" in str(found.table())


@pytest.mark.parametrize("kind", [Tiny, Viewing])
def test_images_are_laid_out_as_the_model_takes_them(kind: type[nn.Module], data: Path) -> None:
    original, orders = kind().eval(), list[bool]()
    plan = decompose.plan(original, torch.zeros(1, 3, SIZE, SIZE), method="dw_pw", rank=2)
    small = decompose.apply(plan, original)
    first = next(module for module in original.modules() if isinstance(module, nn.Conv2d))

    def keep(_: nn.Module, inputs: tuple[Tensor]) -> None:
        orders.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    # The teacher is a copy, with its hooks.
    first.register_forward_pre_hook(keep)
    images = image_dataset(data)
    found = decompose.finetune(
        small, images, teacher=original, recipe=RECIPE, augment=DRAWN, device="cpu"
    )
    assert len(found.history) == RECIPE.epochs
    assert orders[-1] is (kind is Tiny)
    assert all(p.is_contiguous() for p in found.network.parameters())


def test_the_original_teaches_without_labels(data: Path) -> None:
    original, small = models()
    before = weights_digest(small)
    found = decompose.finetune(
        small,
        image_dataset(data),
        teacher=original,
        labelled=False,
        recipe=replace(RECIPE, epochs=4, blockwise=20),
        augment=image_dataset(data).transforms[0],
        device="cpu",
    )
    judge = Validator(image_dataset(data), original, Processes.joined("cpu"), 8, 0)
    assert found.measure == "likeness"
    assert judge.score(found.network) > judge.score(small)
    assert found.history[0].accuracy is None
    assert plan_of(found.network).layers == plan_of(small).layers
    assert [layer.name for layer in found.blockwise] == ["features.0", "features.3"]
    assert weights_digest(small) == before


def test_a_seed_repeats_a_run_bit_for_bit(data: Path, whole: Finetuned) -> None:
    models(**NORMED)
    state = torch.get_rng_state()
    again = tuned(data, kind=NORMED, recipe=replace(RECIPE, workers=2))
    assert digest(again) == digest(whole)
    assert again.history == whole.history
    assert torch.equal(torch.get_rng_state(), state)
    assert digest(tuned(data, kind=NORMED, recipe=replace(RECIPE, seed=1))) != digest(whole)


def test_parts_of_a_batch_add_up_to_it(data: Path) -> None:
    one = tuned(data).network.state_dict()
    parts = tuned(data, recipe=replace(RECIPE, accumulate=2)).network.state_dict()
    for name, tensor in one.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("weight", "measure"), [(0.0, "likeness"), (0.1, "accuracy")])
def test_labels_judge_where_they_teach(data: Path, weight: float, measure: str) -> None:
    recipe = replace(RECIPE, epochs=1, labels=weight)
    assert tuned(data, recipe=recipe).measure == measure


def test_composed_factors_train_alike(data: Path) -> None:
    by_factors = tuned(data).network.state_dict()
    composed = tuned(data, recipe=replace(RECIPE, compose_factors=True)).network.state_dict()
    assert composed.keys() == by_factors.keys()
    for name, tensor in composed.items():
        torch.testing.assert_close(tensor, by_factors[name], rtol=1e-4, atol=1e-5)


def test_it_warns_where_training_made_the_model_worse(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.75, 0.5])
    monkeypatch.setattr(Validator, "score", lambda *_: next(scores))
    wanted = r"no epoch scores as high .*\(50.00% at most\) as .* before training \(75.00%\)"
    with pytest.warns(UserWarning, match=wanted):
        found = tuned(data, recipe=replace(RECIPE, epochs=1))
    assert found.before == 0.75
    assert "before" in found.table().to_markdown()


def test_training_stops_where_the_score_rises_no_more(data: Path) -> None:
    recipe = replace(RECIPE, epochs=9, learning_rate=1e-9, patience=2)
    found = tuned(data, recipe=recipe)
    assert (len(found.history), found.best) == (3, 2)


def test_a_loss_that_is_no_number_stops_and_says_where(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Finetuned
) -> None:
    with monkeypatch.context() as patch:
        fail_at(patch, 9)
        wanted = r"step 4 of epoch 2: the loss is nan; the last good state is .*step-00000008"
        with pytest.raises(DecomposeError, match=wanted):
            tuned(data, kind=NORMED, folder=tmp_path / "run")
    assert (tmp_path / "run" / "best.safetensors").is_file()
    again = tuned(data, kind=NORMED, folder=tmp_path / "run", resume=True)
    assert (digest(again), again.history) == (digest(whole), whole.history)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Finetuned
) -> None:
    with monkeypatch.context() as patch:
        fail_at(patch, 9)
        with pytest.raises(DecomposeError):
            tuned(data, kind=NORMED, folder=tmp_path / "run")
    last = Checkpoints(tmp_path / "run").paths()[-1]
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="falling back to the one before"):
        again = tuned(data, kind=NORMED, folder=tmp_path / "run", resume=True)
    assert (digest(again), again.history) == (digest(whole), whole.history)


def test_a_full_disk_stops_and_leaves_what_was_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Finetuned
) -> None:
    keep = Checkpoints.keep
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def keeping(self: Checkpoints, step: int, content: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048 if step == 7 else soft, hard))
        try:
            keep(self, step, content)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "keep", keeping)
        with pytest.raises(DecomposeError, match=r"step-00000007.safetensors: cannot be written"):
            tuned(data, kind=NORMED, folder=tmp_path / "run")
    assert [path.stem for path in Checkpoints(tmp_path / "run").paths()][-1] == "step-00000006"
    again = tuned(data, kind=NORMED, folder=tmp_path / "run", resume=True)
    assert digest(again) == digest(whole)


def test_an_unreadable_image_is_named_and_stops_nothing(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "data")
    for path in (folder / "c0" / "1.png", folder / "c2" / "5.png"):
        path.write_text("no image")
    found = tuned(folder)
    assert set(found.unreadable.values()) == {"is no image"}
    assert len(found.unreadable) == 2


def test_damaged_best_weights_give_way_to_the_last(data: Path, tmp_path: Path) -> None:
    first = tuned(data, folder=tmp_path / "run")
    best = tmp_path / "run" / "best.safetensors"
    assert weights_digest(decompose.load(best, models()[0])) == digest(first)
    content = bytearray(best.read_bytes())
    content[-5] ^= 1
    best.write_bytes(content)
    with pytest.warns(UserWarning, match=r"best.safetensors: is damaged; taking the last epoch's"):
        again = tuned(data, folder=tmp_path / "run", resume=True)
    assert again.history == first.history


def test_a_run_that_fails_keeps_its_log(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker, start = Mock(), finetuning.start

    def started(*options: Any) -> Any:
        accelerator = start(*options)
        accelerator.trackers.append(tracker)
        return accelerator

    monkeypatch.setattr(finetuning, "start", started)
    fail_at(monkeypatch, 1)
    with pytest.raises(DecomposeError, match="the loss is nan"):
        tuned(data)
    tracker.finish.assert_called_once_with()


def test_runs_are_not_mixed_up(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    # With nothing to go on from, a run begins.
    tuned(data, folder=folder, resume=True)
    with pytest.raises(DecomposeError, match=r"holds the checkpoints of a run; go on .* --resume"):
        tuned(data, folder=folder)
    with pytest.raises(DecomposeError, match="holds a run with another recipe"):
        tuned(data, folder=folder, resume=True, recipe=replace(RECIPE, epochs=5))
    with pytest.raises(DecomposeError, match="another network and another teacher"):
        tuned(data, folder=folder, resume=True, kind={"norm": True})


def test_what_does_not_fit_is_told_before_anything_is_kept(data: Path, tmp_path: Path) -> None:
    other, _ = models()
    other.classifier = nn.Linear(8, 2)
    with pytest.raises(DecomposeError, match=r"the teacher gives \(2,\) for an image"):
        tuned(data, folder=tmp_path / "run", teacher=other)
    assert not (tmp_path / "run").exists()


def test_mixed_precision_is_asked_for_and_left_behind(data: Path) -> None:
    found = tuned(data, recipe=replace(RECIPE, precision="bf16"))
    assert digest(found) != digest(tuned(data))
    scores = found.network(torch.rand(1, 3, 8, 8))
    assert scores.dtype == torch.float32
    assert "forward" not in vars(found.network)


def test_what_came_as_an_onnx_model_is_refused_before_anything(data: Path, tmp_path: Path) -> None:
    model = read(small_cnn(), tmp_path)
    with pytest.raises(DecomposeError, match="finetune the model that it was exported from"):
        decompose.finetune(model, image_dataset(data), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_done_is_told(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DecomposeError, match="say cpu or auto"):
        tuned(data, device="cuda:1")
    with pytest.raises(DecomposeError, match="blockwise reconstruction learns from the original"):
        tuned(data, taught=False, recipe=replace(RECIPE, blockwise=5))
    with pytest.raises(DecomposeError, match="to resume a run there must be the folder"):
        tuned(data, resume=True)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(DecomposeError, match=r"pip install 'torch-decompose\[tensorboard\]'"):
        tuned(data, tensorboard=data)
