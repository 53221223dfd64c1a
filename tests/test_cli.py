"""The command line, as its users meet it: files in, tables and files out, one line on bad input."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

import decompose
from decompose.architectures import OFFLINE_VGG16
from decompose.cli.inputs import load_all
from decompose.errors import DecomposeError
from decompose.folding import folded_of
from decompose.methods import METHODS
from tests.cli_cases import Captured, run
from tests.picture_cases import photograph

ARCH = "torchvision:resnet18,weights=none,num_classes=6"
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and real photographs in six class folders."""
    folder = tmp_path_factory.mktemp("cli")
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=6).state_dict(), folder / "resnet18.pth")
    names = ("astronaut.png", "chelsea.png", "coffee.png", "brick.png", "coins.png", "rocket.jpg")
    for index, name in enumerate(names):
        (folder / "val" / f"n{index:02}").mkdir(parents=True)
        photograph(name).save(folder / "val" / f"n{index:02}" / "picture.jpg")
    return folder


@pytest.fixture(scope="module")
def small(folder: Path) -> Path:
    """The checkpoint, compressed."""
    path = folder / "small.safetensors"
    arguments = ["--arch", ARCH, "--rank", "3", "--skip", "conv1", "-o", path]
    assert run("compress", folder / "resnet18.pth", *arguments) == 0
    return path


def test_compress_writes_the_network_its_plan_and_a_table(
    folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    files = [tmp_path / name for name in ("a.safetensors", "plan.json", "table.md")]
    arguments = ["--arch", ARCH, "--rank", "2", "--rank", "layer4.*=5", "--skip", "conv1"]
    outputs = ["-o", files[0], "--save-plan", files[1], "--table", files[2]]
    assert run("compress", folder / "resnet18.pth", *arguments, *outputs) == 0
    printed = capsys.readouterr().out
    assert "Left dense, skipped by name: conv1" in printed
    assert all(str(path) in printed for path in files)
    plan = decompose.Plan.load(files[1])
    assert plan.layers["layer4.1.conv2"].rank == 5
    assert plan.layers["layer1.0.conv1"].rank == 2
    assert "| layer4.1.conv2 " in files[2].read_text()
    again = tmp_path / "again.safetensors"
    command = ["compress", folder / "resnet18.pth", "--arch", ARCH, "--plan", files[1]]
    assert run(*command, "-o", again) == 0
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(decompose.load(again)(x), decompose.load(files[0])(x))


def test_compress_by_energy(tmp_path: Path, capsys: Captured) -> None:
    command = ["compress", ARCH, "--method", "dw_pw", "--energy", "0.5", "--skip", "conv1"]
    assert run(*command, "-o", tmp_path / "a.safetensors") == 0
    assert "dw_pw" in capsys.readouterr().out


def test_compress_folds_batchnorm_of_a_timm_network(tmp_path: Path) -> None:
    source, path = "timm:test_resnet,weights=none", tmp_path / "small.safetensors"
    asked = "--rank", "2", "--input-size", "32", "--fold-batchnorm", "-o", path
    assert run("compress", source, *asked) == 0
    folded = folded_of(decompose.load(path))
    assert folded["conv1.0"] == "conv1.1"
    # The original is random, and another one each time.
    assert run("compare", source, path, "--input-size", "32") == 0


def test_compressing_nothing_warns(tmp_path: Path, capsys: Captured) -> None:
    assert run("compress", ARCH, "--energy", "1", "-o", tmp_path / "a.safetensors") == 0
    assert "warning: nothing was rewritten" in capsys.readouterr().err


def test_what_is_rewritten_is_not_rewritten_again(
    small: Path, tmp_path: Path, capsys: Captured
) -> None:
    output = tmp_path / "again.safetensors"
    assert run("compress", small, "--macs", "0.5", "-o", output) == 2
    assert "rewritten already; give the network it was made from" in capsys.readouterr().err
    assert not output.exists()


def test_inspect_needs_nothing_but_the_file(small: Path, tmp_path: Path, capsys: Captured) -> None:
    outputs = ["--plot", tmp_path / "spectrum.png", "-o", tmp_path / "layers.json"]
    assert run("inspect", small, *outputs) == 0
    printed = capsys.readouterr().out
    assert "layer1.0.conv1" in printed
    assert "pw_dw" in printed
    assert (tmp_path / "spectrum.png").stat().st_size > 1000
    record = json.loads((tmp_path / "layers.json").read_text())
    assert record["layers"][1]["rank"] == "3"
    assert run("inspect", small, "--pca", "--method", "dw_pw") == 0
    assert "variance explained by first components, dw_pw" in capsys.readouterr().out


def test_compare_takes_the_architecture_from_the_small_file(
    folder: Path, small: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "pictures").mkdir()
    for index in range(3):
        picture = folder / "val" / f"n{index:02}" / "picture.jpg"
        (tmp_path / "pictures" / f"{index}.jpg").write_bytes(picture.read_bytes())
    (tmp_path / "pictures" / "broken.jpg").write_text("no picture")
    images = ["--images", tmp_path / "pictures", "--workers", "0", "-o", tmp_path / "r.json"]
    assert run("compare", folder / "resnet18.pth", small, *images) == 0
    captured = capsys.readouterr()
    assert "output" in captured.out
    assert "of 3 pictures" in captured.out
    assert "broken.jpg: is no picture" in captured.err
    assert "1 pictures could not be read" in captured.err
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["num_inputs"] == 3
    assert record["macs"]["before"] > record["macs"]["after"]
    assert list(record["unreadable"]) == [str(tmp_path / "pictures" / "broken.jpg")]


def test_every_checkpoint_without_a_name_takes_the_architecture(
    folder: Path, small: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{name}.pth" for name in "abc"]
    for path in paths:
        shutil.copy(folder / "resnet18.pth", path)
    sources = [str(path) for path in (*paths, small)]
    assert list(load_all(sources, ARCH)) == sources
    assert len(load_all([ARCH, sources[0]], ARCH)) == 2
    for sources in ([ARCH], [ARCH, str(small)]):
        with pytest.raises(DecomposeError, match="already; give no"):
            load_all(sources, ARCH)


def test_compare_without_pictures_looks_at_weights(
    folder: Path, small: Path, capsys: Captured
) -> None:
    assert run("compare", folder / "resnet18.pth", small) == 0
    assert "output" not in capsys.readouterr().out


def test_evaluate_compares_networks_on_the_same_pictures(
    folder: Path, small: Path, tmp_path: Path, capsys: Captured
) -> None:
    result = tmp_path / "result.json"
    arguments = ["--data", folder / "val", "--workers", "2", "--batch-size", "4", "-o", result]
    assert run("evaluate", folder / "resnet18.pth", small, *arguments) == 0
    printed = capsys.readouterr().out
    assert "Accuracy on 6 pictures of 6 classes" in printed
    assert "pictures/s; on tensors that lie ready" in printed
    record = json.loads(result.read_text())
    assert record["num_pictures"] == record["num_classes"] == 6
    accuracy = record["accuracies"][str(small)]
    assert 0 <= accuracy["top1"]["value"] <= accuracy["top5"]["value"] <= 1
    assert set(record["provenance"]["weights"]) == {str(folder / "resnet18.pth"), str(small)}
    assert record["environment"]["torch"] == torch.__version__
    assert not [path for path in tmp_path.iterdir() if "outcomes" in path.name]


def test_evaluate_takes_a_subset(folder: Path, small: Path, capsys: Captured) -> None:
    arguments = ["--data", folder / "val", "--workers", "0"]
    assert run("evaluate", small, *arguments, "--subset", 4, "--precision", "bfloat16") == 0
    assert "Accuracy on 4 pictures" in capsys.readouterr().out
    assert run("evaluate", small, *arguments, "--subset", 7) == 2
    assert "there are 6" in capsys.readouterr().err


def test_benchmark_times_several_networks(folder: Path, small: Path, tmp_path: Path) -> None:
    arguments = ["--rounds", "1", "--input-size", "64x48", "--batch", "2,1", "--contiguous"]
    arguments += ["--engines", "eager,onnxruntime", "--layers", "--plot", tmp_path / "speed.png"]
    result = tmp_path / "times.json"
    assert run("benchmark", folder / "resnet18.pth", small, *arguments, "-o", result) == 0
    record = json.loads(result.read_text())
    assert record["input_shape"] == [3, 64, 48]
    whole = [latency for latency in record["latencies"] if not latency["layer"]]
    assert [latency["name"] for latency in whole] == [str(folder / "resnet18.pth"), str(small)] * 4
    assert [latency["batch_size"] for latency in whole] == [2, 2, 1, 1] * 2
    assert len(record["latencies"]) > len(whole)
    assert (tmp_path / "speed.png").stat().st_size > 0


def test_tune_measures_forms_or_takes_the_ones_named(
    small: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _: str(tmp_path))
    path = tmp_path / "tuned.safetensors"
    arguments = ["--engine", "onnxruntime", "--input-size", "32", "--batch", "2"]
    assert run("tune", small, "-o", path, *arguments) == 0
    assert "layer1.0.conv1" in capsys.readouterr().out
    x = torch.randn(1, 3, 32, 32)
    expected = decompose.load(small)(x)
    torch.testing.assert_close(decompose.load(path)(x), expected, rtol=1e-3, atol=1e-4)
    named = ["--form", "merged", "--form", "layer2.*=branches-whole"]
    assert run("tune", small, "-o", path, *named) == 0
    network = decompose.load(path)
    torch.testing.assert_close(network(x), expected, rtol=1e-3, atol=1e-4)
    assert network.get_submodule("layer1.0.conv1").form == "merged"
    assert network.get_submodule("layer2.0.conv2").form == "branches-whole"
    capsys.readouterr()
    for wrong, told in (
        ("wide", "form 'wide' does not exist"),
        ("x.*=merged", "no layer has that"),
    ):
        assert run("tune", small, "-o", path, "--form", wrong) == 2
        assert told in capsys.readouterr().err
    assert run("tune", "torchvision:resnet18,weights=none", "-o", path) == 2
    assert "no rewritten layer" in capsys.readouterr().err
    timed = ["--engines", "onnxruntime", "--input-size", "32", "--rounds", "1"]
    assert run("benchmark", ARCH, small, *timed, "--layers", "--tune") == 0


def test_export_writes_what_onnxruntime_runs(small: Path, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "small.onnx"
    assert run("export", small, "-o", path, "--input-size", "64") == 0
    assert "onnxruntime gives what torch gives" in capsys.readouterr().out
    assert path.stat().st_size > 0


def test_the_offline_weights_are_a_source(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "vgg16.safetensors"
    assert run("compress", OFFLINE_VGG16, "--rank", "4", "--skip", "conv1_1", "-o", path) == 0
    assert "2.12" in capsys.readouterr().out
    assert run("inspect", path) == 0


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
        (checkpoint, ["--rank", 10], "rank 10 of pw_dw is out of bounds: it is 1 to 9"),
        (checkpoint, ["--rank", "two"], "rank 'two': write N or PATTERN=N"),
        (checkpoint, ["--rank", 2, "--energy", 0.9], "give one of rank, energy or ratio"),
        (checkpoint, [], "give one of rank, energy or ratio"),
        (checkpoint, ["--energy", 2], "energy 2.0 is out of bounds"),
        (checkpoint, ["--rank", 2, "--method", "sdv"], f"there are: {', '.join(METHODS)}"),
        (checkpoint, ["--rank", 2, "--skip", "conv9"], "conv9: no layer has that name"),
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
    assert "give it (--arch NAME" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written_are_found_early(tmp_path: Path, capsys: Captured) -> None:
    for output, message in (
        (tmp_path / "missing" / "a.safetensors", "there is no folder"),
        (tmp_path / "a.pth", "end its name in .safetensors"),
    ):
        assert run("compress", "no.pth", "--arch", ARCH, "--rank", 2, "-o", output) == 2
        assert message in capsys.readouterr().err


def test_bad_folders_of_pictures(small: Path, tmp_path: Path, capsys: Captured) -> None:
    assert run("evaluate", small, "--data", tmp_path) == 2
    assert f"{tmp_path}: holds no class folders" in capsys.readouterr().err
    assert run("compare", small, small, "--images", tmp_path) == 2
    assert f"{tmp_path}: holds no picture" in capsys.readouterr().err
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.jpg").write_text("no picture")
    assert run("evaluate", small, "--data", tmp_path, "--workers", 0) == 2
    assert "a.jpg: is no picture" in capsys.readouterr().err
    assert run("compare", small, small, "--images", tmp_path, "--workers", 0) == 2
    assert "no inputs" in capsys.readouterr().err


def test_other_bad_words(small: Path, capsys: Captured) -> None:
    assert run("benchmark", small, small) == 2
    assert "named twice" in capsys.readouterr().err
    assert run("benchmark", ARCH, small, "--device", "cuda:99", "--rounds", 1) == 2
    assert "device 'cuda:99': cannot be used" in capsys.readouterr().err
    assert run("inspect", small, "--method", "sdv") == 2
    assert "no method is called 'sdv'" in capsys.readouterr().err
    assert run("inspect") == 2


def test_the_help_names_every_method(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run("compress", "--help") == 0
    assert ", ".join(METHODS) in capsys.readouterr().out


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").glob("*.py")))
def test_each_script_is_its_command(script: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / script), "--help"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert f"Usage: {script} " in printed


def test_the_command_is_installed() -> None:
    command = [sys.executable, "-c", "import decompose.cli, sys; sys.exit(decompose.cli.main())"]
    ended = subprocess.run(
        [*command, "inspect", "no.pth"], check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: no.pth: no such file\n"


def test_a_budget_is_planned_and_repaired_on_pictures(
    folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    kept, plan, small = (tmp_path / name for name in ("s.safetensors", "p.json", "a.safetensors"))
    skipped = [word for name in ("layer1", "layer3", "layer4") for word in ("--skip", name)]
    command = ["compress", folder / "resnet18.pth", "--arch", ARCH, *skipped]
    command += ["--methods", "dw_pw,spatial", "--input-size", "64"]
    calibrated = ["--macs", "0.9", "--calibrate", folder / "val", "--save-statistics", kept]
    assert run(*command, *calibrated, "--save-plan", plan, "-o", small) == 0
    printed = capsys.readouterr().out
    assert "Repair; error of each layer's output" in printed
    assert all(str(path) in printed for path in (kept, plan, small))
    notes = decompose.Plan.load(plan).notes
    assert notes
    assert all(note.unit == "MACs" for note in notes.values())
    assert run("inspect", small, "--input-size", "64") == 0
    assert "runner-up" in capsys.readouterr().out
    again = [
        "--macs",
        "0.85",
        "--statistics",
        kept,
        "--no-repair",
        "-o",
        tmp_path / "b.safetensors",
    ]
    assert run(*command, *again) == 0
    assert "Repair" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rank", "2", "--statistics", "s"], "planned by: --macs"),
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
        (["--macs", "0.5", "--calibrate", "val/n00"], "two pictures at least"),
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
