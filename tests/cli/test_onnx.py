"""ONNX in, ONNX out, on the command line."""

from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper

from decompose.models.plans import Plan
from tests.cli.cases import Captured, run
from tests.data.cases import photograph
from tests.models.onnx.cases import run_onnx, small_cnn


def one_error(capsys: Captured) -> str:
    """The only line on standard error."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(small_cnn(), path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"):
        photograph(name, 64).save(folder / name)
    return folder


def test_compress_for_a_budget_on_images(
    model: Path, images: Path, tmp_path: Path, capsys: Captured
) -> None:
    small, plan = tmp_path / "small.onnx", tmp_path / "plan.json"
    look = ["--scale", 255, "--mean", "104,117,124", "--bgr"]
    arguments = ["--macs", 0.6, "--calibrate", images, *look, "--save-plan", plan]
    assert run("compress", model, *arguments, "-o", small) == 0
    printed = capsys.readouterr().out
    assert "Before and after" in printed
    assert f"Wrote {small}" in printed
    onnx.checker.check_model(small, full_check=True)
    assert run_onnx(small, torch.zeros(2, 3, 16, 16))[0].shape == (2, 7)
    again = tmp_path / "again.onnx"
    assert run("compress", model, "--plan", plan, "-o", again) == 0
    kinds = [[node.op_type for node in onnx.load(path).graph.node] for path in (small, again)]
    assert kinds[0] == kinds[1]
    assert Plan.load(plan).layers


def test_inspect_and_benchmark(model: Path, tmp_path: Path, capsys: Captured) -> None:
    assert run("inspect", model) == 0
    assert "block/1" in capsys.readouterr().out
    small = tmp_path / "small.onnx"
    assert run("compress", model, "--rank", 2, "-o", small) == 0
    arguments = ["--engines", "onnxruntime", "--rounds", 2]
    assert run("benchmark", model, small, *arguments) == 0
    assert "onnxruntime" in capsys.readouterr().out.lower().replace(" ", "")


def test_what_is_left_alone_is_told(model: Path, tmp_path: Path, capsys: Captured) -> None:
    computed = small_cnn()
    computed.graph.node.insert(0, helper.make_node("Neg", ["up.weight"], ["negated"]))
    next(node for node in computed.graph.node if node.name == "up").input[1] = "negated"
    onnx.save(computed, model)
    assert run("compress", model, "--rank", 2, "-o", tmp_path / "small.onnx") == 0
    assert "Left alone, its weight is computed, or given by the caller: up" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["compress", "-o", "small.safetensors"],
            "is to hold an ONNX model; end its name in .onnx",
        ),
        (
            ["compress", "-o", "small.onnx", "--arch", "torchvision:vgg16"],
            "has its own architecture",
        ),
        (
            ["compress", "-o", "small.onnx", "--input-size", "32"],
            "inputs of 16x16 pixels only",
        ),
        (["compress", "-o", "small.onnx", "--mean", "a"], "mean 'a': write N or N,N,N"),
        (["compress", "-o", "small.onnx", "--fix", "sr"], "input 'sr': write NAME=NUMBER"),
        (["compress", "-o", "small.onnx", "--fix", "sr=1"], "has no input sr; there are: x"),
        (["finetune", "-o", "tuned.safetensors", "--data", "."], "cannot be finetuned; finetune"),
        (["evaluate", "--data", "."], "holds no class folders"),
        (["compare", "model.onnx"], "compared by its outputs alone"),
    ],
)
def test_mistakes_end_in_one_line(
    model: Path,
    arguments: list[str],
    reason: str,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(model.parent)
    command, *others = arguments
    assert run(command, "model.onnx", *others) == 2
    assert reason in one_error(capsys)
    assert [path.name for path in model.parent.iterdir()] == ["model.onnx"]


def test_options_of_images_are_of_onnx_models_alone(tmp_path: Path, capsys: Captured) -> None:
    source = "torchvision:squeezenet1_1,weights=none"
    assert run("compress", source, "--bgr", "-o", tmp_path / "small.safetensors") == 2
    assert "for the images of an ONNX model" in capsys.readouterr().err
