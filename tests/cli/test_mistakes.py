"""Bad input on the command line: one line that names the thing, exit code 2, and nothing half-written."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from decompose.methods import METHODS
from tests.cli.cases import ARCH, Captured, run


def truncated(folder: Path) -> Path:
    path = folder / "cut.pth"
    path.write_bytes((folder / "resnet18.pth").read_bytes()[:5000])
    return path


def poisoned(folder: Path) -> Path:
    class Attack:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(folder / "attacked"),)

    torch.save({"weight": Attack()}, folder / "evil.pth")
    return folder / "evil.pth"


def not_finite(folder: Path) -> Path:
    state: dict[str, Tensor] = torchvision.models.resnet18(num_classes=6).state_dict()
    state["conv1.weight"][0] = float("inf")
    torch.save(state, folder / "inf.pth")
    return folder / "inf.pth"


Source = Callable[[Path], object]


def checkpoint(folder: Path) -> Path:
    return folder / "resnet18.pth"


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (lambda f: f / "missing.pth", ["--rank", 2], "missing.pth: no such file"),
        (truncated, ["--rank", 2], "cut.pth: is damaged"),
        (poisoned, ["--rank", 2], "could run code"),
        (not_finite, ["--rank", 2], "inf.pth: conv1.weight is not finite"),
        (checkpoint, ["--rank", 0], "rank 0 of pw_dw is out of bounds: it is 1 to 9"),
        (checkpoint, ["--rank", 10], "it is 1 to 9, that of layer layer1.0.conv1"),
        (checkpoint, ["--rank", "two"], "rank 'two': write N or PATTERN=N"),
        (checkpoint, ["--rank", 2, "--energy", 0.9], "give one of rank, energy or ratio"),
        (checkpoint, [], "give one of rank, energy or ratio"),
        (checkpoint, ["--energy", 2], "energy 2.0 is out of bounds"),
        (checkpoint, ["--rank", 2, "--method", "sdv"], f"there are: {', '.join(METHODS)}"),
        (
            checkpoint,
            ["--rank", 2, "--skip", "conv9"],
            "conv9: no layer has that name; did you mean",
        ),
        (checkpoint, ["--rank", 2, "--skip", "*x*"], "there are: conv1, layer1.0.conv1, "),
        (checkpoint, ["--rnk", 2], "No such option: --rnk"),
        (checkpoint, ["--rank", 2, "--max-images", "many"], "Invalid value for '--max-images'"),
        (checkpoint, ["--rank", 2, "--input-size", "big"], "input size 'big': write N or HxW"),
        (checkpoint, ["--rank", 2, "--plan", "p.json"], "--plan holds all choices"),
        (checkpoint, ["--plan", "missing.json"], "missing.json: cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, capsys: Captured, source: Source, options: list, message: str
) -> None:
    output = tmp_path / "small.safetensors"
    assert run("compress", source(folder), "--arch", ARCH, *options, "-o", output) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
    assert not (folder / "attacked").exists()


def test_a_wrong_architecture_names_the_keys(
    folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    output = tmp_path / "small.safetensors"
    arch = "torchvision:squeezenet1_1,weights=none"
    assert run("compress", checkpoint(folder), "--arch", arch, "--rank", 2, "-o", output) == 2
    error = capsys.readouterr().err
    assert "missing keys: features.0.weight" in error
    assert "unexpected keys: conv1.weight" in error
    assert error.count("\n") == 1
    assert run("compress", checkpoint(folder), "--rank", 2, "-o", output) == 2
    assert "give it (--arch torchvision:resnet18, for example)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written_are_found_early(tmp_path: Path, capsys: Captured) -> None:
    for output, message in (
        (tmp_path / "missing" / "a.safetensors", "there is no folder"),
        (tmp_path / "a.pth", "end its name in .safetensors"),
    ):
        assert run("compress", "no.pth", "--arch", ARCH, "--rank", 2, "-o", output) == 2
        assert message in capsys.readouterr().err


def test_bad_folders_of_images(small: Path, tmp_path: Path, capsys: Captured) -> None:
    assert run("evaluate", small, "--data", tmp_path) == 2
    assert f"{tmp_path}: holds no class folders" in capsys.readouterr().err
    assert run("compare", small, small, "--images", tmp_path) == 2
    assert f"{tmp_path}: holds no image" in capsys.readouterr().err
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.jpg").write_text("no image")
    assert run("evaluate", small, "--data", tmp_path, "--workers", 0) == 2
    assert "a.jpg: is no image" in capsys.readouterr().err
    assert run("compare", small, small, "--images", tmp_path, "--workers", 0) == 2
    assert "no image could be read; the first is" in capsys.readouterr().err


def test_other_bad_words(small: Path, capsys: Captured) -> None:
    assert run("benchmark", small, small) == 2
    assert "named twice" in capsys.readouterr().err
    assert run("benchmark", ARCH, small, "--device", "cuda:99", "--rounds", 1) == 2
    assert "device 'cuda:99': cannot be used" in capsys.readouterr().err
    assert run("inspect", small, "--method", "sdv") == 2
    assert "no method is called 'sdv'" in capsys.readouterr().err
    assert run("inspect") == 2
    assert capsys.readouterr().err == "error: Missing argument 'model'.\n"
    assert run("nothing") == 2
    assert capsys.readouterr().err == "error: No such command 'nothing'.\n"
    assert run("export", small, "-o", "small.txt") == 2
    assert "end its name in .onnx" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("resnet18", "resnet18: no such file; did you mean torchvision:resnet18?"),
        ("resnet18.pth", "resnet18.pth: no such file"),
        ("torchvision:resnet18,weight=none", "there is no option 'weight'"),
        ("timm:test_resnet,weights=none,depth=3", "there is no option 'depth'"),
    ],
)
def test_what_names_no_network(
    source: str,
    message: str,
    capsys: Captured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("inspect", source) == 2
    assert capsys.readouterr().err.removeprefix("error: ").rstrip().endswith(message)


def test_the_command_without_arguments_is_its_help(capsys: Captured) -> None:
    assert run() == 2
    captured = capsys.readouterr()
    assert "Usage: " in captured.out
    assert captured.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rank", "2", "--statistics", "s"], "statistics are for a budget: give --macs"),
        (["--macs", "0.5", "--save-statistics", "s"], "--calibrate"),
        (
            ["--macs", "0.5", "--calibrate", "val", "--statistics", "s", "--save-statistics", "t"],
            "give no --statistics",
        ),
        (["--rank", "2", "--calibrate", "val", "--no-repair"], "--calibrate is to plan a budget"),
        (["--plan", "p", "--calibrate", "val", "--no-repair"], "--calibrate is to plan a budget"),
        (["--macs", "0.5", "--max-images", "9"], "take of --calibrate"),
        (["--macs", "0.5", "--statistics", "none"], "none: cannot be read as statistics"),
        (["--macs", "0.5", "--calibrate", "none"], "none: no such folder"),
        (["--macs", "0.5", "--calibrate", "val/n00"], "two images at least"),
    ],
)
def test_what_cannot_be_calibrated(
    arguments: list[str],
    message: str,
    folder: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    assert run("compress", "resnet18.pth", "--arch", ARCH, *arguments, "-o", "x.safetensors") == 2
    assert message in capsys.readouterr().err
    assert not Path("x.safetensors").exists()


def test_no_command_overwrites_what_it_reads(small: Path, capsys: Captured) -> None:
    before = small.read_bytes()
    for command in ("inspect", "export", "tune"):
        assert run(command, small, "-o", small) == 2
        assert "is read by the same command" in capsys.readouterr().err
    assert run("inspect", small, "--table", small) == 2
    assert small.read_bytes() == before


def test_whatever_a_name_holds_an_error_is_one_printable_line(
    tmp_path: Path, capsys: Captured
) -> None:
    assert run("inspect", tmp_path / "a\nb\x1b[31m.pth", "--arch", ARCH) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "\x1b" not in error


@pytest.mark.parametrize(
    ("redirection", "code", "error"),
    [
        (">/dev/full", 2, "error: standard output: cannot be written: No space left on device\n"),
        ("| true", 1, ""),
    ],
)
def test_an_output_that_takes_nothing(redirection: str, code: int, error: str) -> None:
    command = f"{sys.executable} -m decompose inspect torchvision:squeezenet1_1,weights=none"
    line = f"set -o pipefail; {command} --input-size 32 {redirection}"
    done = subprocess.run(
        ["bash", "-c", line],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, error)
