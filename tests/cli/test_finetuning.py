"""``decompose finetune``, as its users meet it."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from typer.main import get_command

import decompose
from decompose.cli.commands import app
from decompose.models.conversion import plan_of
from decompose.training.recipe import Recipe
from tests.cli.cases import Captured, run
from tests.training.cases import make_images

ARCH = "torchvision:squeezenet1_1,weights=none,num_classes=3"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, what compress made of it, and images in three class folders."""
    folder = tmp_path_factory.mktemp("finetune")
    torch.manual_seed(0)
    state = torchvision.models.squeezenet1_1(num_classes=3).state_dict()
    torch.save(state, folder / "net.pth")
    make_images(folder / "data", 4)
    arguments = ["--arch", ARCH, "--rank", "2", "--input-size", "32"]
    assert run("compress", folder / "net.pth", *arguments, "-o", folder / "small.safetensors") == 0
    return folder


def finetuned(folder: Path, output: Path, *arguments: object) -> int:
    # Weights that hardly move score no less than before: of a few images that is chance.
    options = ["--input-size", "32", "--batch-size", "5", "--workers", "0", "--device", "cpu"]
    options += ["--learning-rate", "1e-9"]
    small = folder / "small.safetensors"
    return run("finetune", small, *options, "--epochs", "1", *arguments, "-o", output)


def test_a_network_comes_back_with_its_plan(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    output = tmp_path / "tuned.safetensors"
    data = ["--data", folder / "data", "--teacher", folder / "net.pth"]
    assert finetuned(folder, output, *data, "--table", tmp_path / "table.md") == 0
    printed = capsys.readouterr()
    assert "epoch 1 of 1: loss" in printed.err
    assert str(output) in printed.out
    assert "held out" in (tmp_path / "table.md").read_text()
    before, after = (decompose.load(path) for path in (folder / "small.safetensors", output))
    assert plan_of(after).to_json() == plan_of(before).to_json()
    assert {path.name for path in (tmp_path / "tuned.checkpoints").iterdir()} == {
        "best.safetensors",
        "step-00000000.safetensors",
        "step-00000002.safetensors",
    }
    # Once more it is refused, unless it is to go on; then it is done already.
    assert finetuned(folder, output, *data) == 2
    assert "--resume" in capsys.readouterr().err
    assert finetuned(folder, output, *data, "--resume") == 0


def test_without_labels_and_recomposed(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "dense.safetensors"
    data = ["--unlabelled", folder / "data", "--teacher", folder / "net.pth"]
    assert finetuned(folder, output, *data, "--blockwise", "2", "--recompose") == 0
    model = torchvision.models.squeezenet1_1(num_classes=3)
    model.load_state_dict(load_file(output))
    assert not plan_of(decompose.load(output)).layers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give images with labels (--data) or without (--unlabelled)"),
        (["--unlabelled", "data"], "only the original to learn from: --teacher"),
        (["--data", "data", "--features", "1"], "--features: learns from the original"),
        (["--data", "data", "--blockwise", "9"], "--blockwise: learns from the original"),
        (["--data", "data", "--epochs", "0"], "epochs 0: must be 1 or more"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--data", "data", "--batch-size", "500"], "a batch takes 500 images"),
        (["--data", "data", "--device", "tpu"], "say cpu or auto"),
    ],
)
def test_bad_input_is_told_in_one_line(
    folder: Path,
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    assert finetuned(folder, tmp_path / "x.safetensors", *arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.startswith("error: ")
    assert len(printed.splitlines()) == 1


def test_every_setting_of_the_recipe_is_an_option() -> None:
    options = {
        parameter.name: parameter.default
        for parameter in get_command(app).commands["finetune"].params  # type: ignore[attr-defined]
    }
    for setting in fields(Recipe):
        if setting.name not in ("workers", "seconds_between"):
            assert options[setting.name] == setting.default, setting.name
