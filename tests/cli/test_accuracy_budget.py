"""``decompose compress --max-drop``, as its users meet it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import decompose
from decompose.cli import accuracy_budget
from decompose.data.images import ImageDataset
from decompose.evaluation.accuracy_budget import Trial, WithinDrop
from decompose.evaluation.confidence_intervals import Estimate
from tests.cli.cases import ARCH, Captured, run

CHANGE = Estimate(-0.004, -0.009, 0.001)


def test_the_model_that_was_found_is_saved_with_its_trials(
    folder: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def found(
        model: nn.Module, example: Tensor, images: ImageDataset, max_drop: float, **options: Any
    ) -> WithinDrop:
        asked.update(options, max_drop=max_drop, labels=[label for _, label in images.samples])
        plan = decompose.plan(model, example, rank=3)
        trials = (Trial(0.5, CHANGE), Trial(0.25, None))
        small = decompose.apply(plan, model)
        return WithinDrop(small, plan, 0.5, CHANGE, 500, is_labelled=True, trials=trials)

    monkeypatch.setattr(accuracy_budget, "compress_within_drop", found)
    path = tmp_path / "small.safetensors"
    command = ["compress", folder / "resnet18.pth", "--arch", ARCH, "-o", path]
    assert run(*command, "--max-drop", "1", "--data", folder / "val", "--skip", "conv1") == 0
    printed = capsys.readouterr().out
    assert "-0.40" in printed
    assert "no plan is as small" in printed
    assert decompose.load(path) is not None
    assert (asked["max_drop"], asked["budget"], asked["skip"]) == (0.01, "macs", ["conv1"])
    assert asked["labels"] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--max-drop", "1"], "judged on images: --data"),
        (["--data", "{data}"], "give --max-drop"),
        (["--max-drop", "1", "--data", "{data}", "--macs", "0.5"], "give no --macs"),
        (["--max-drop", "1", "--data", "{data}", "--no-repair"], "give no --no-repair"),
        (["--max-drop", "0", "--data", "{data}"], "between 0 and 100"),
        (["--max-drop", "1", "--data", "{data}"], "6 images cannot confirm a drop"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    folder: Path, tmp_path: Path, capsys: Captured, arguments: list[str], said: str
) -> None:
    path = tmp_path / "small.safetensors"
    asked = [argument.format(data=folder / "val") for argument in arguments]
    assert run("compress", folder / "resnet18.pth", "--arch", ARCH, *asked, "-o", path) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not path.exists()
