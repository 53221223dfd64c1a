"""The commands, as their users meet them: files in, tables and files out."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import decompose
from decompose.cli.loading import load_all
from decompose.methods import METHODS
from decompose.utils.errors import DecomposeError
from tests.cli.cases import ARCH, Captured, run

ROOT = Path(__file__).parents[2]


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
        image = folder / "val" / f"n{index:02}" / "picture.jpg"
        (tmp_path / "pictures" / f"{index}.jpg").write_bytes(image.read_bytes())
    (tmp_path / "pictures" / "broken.jpg").write_text("no image")
    images = ["--images", tmp_path / "pictures", "--workers", "0", "-o", tmp_path / "r.json"]
    assert run("compare", folder / "resnet18.pth", small, *images) == 0
    captured = capsys.readouterr()
    assert "output" in captured.out
    assert "of 3 images" in captured.out
    assert "broken.jpg: is no image" in captured.err
    assert "1 images could not be read" in captured.err
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["num_inputs"] == 3
    assert record["macs"]["before"] > record["macs"]["after"]
    assert list(record["unreadable"]) == [str(tmp_path / "pictures" / "broken.jpg")]


def test_images_none_of_which_can_be_read_are_named(
    folder: Path, small: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "broken.jpg").write_text("no image")
    images = ["--images", tmp_path, "--workers", "0"]
    assert run("compare", folder / "resnet18.pth", small, *images) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"no image could be read; the first is {tmp_path}/broken.jpg: is no image")


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


def test_compare_without_images_looks_at_weights(
    folder: Path, small: Path, capsys: Captured
) -> None:
    assert run("compare", folder / "resnet18.pth", small) == 0
    assert "output" not in capsys.readouterr().out


def test_evaluate_compares_networks_on_the_same_images(
    folder: Path, small: Path, tmp_path: Path, capsys: Captured
) -> None:
    result = tmp_path / "result.json"
    arguments = ["--data", folder / "val", "--workers", "2", "--batch-size", "4", "-o", result]
    assert run("evaluate", folder / "resnet18.pth", small, *arguments) == 0
    printed = capsys.readouterr().out
    assert "Accuracy on 6 images of 6 classes" in printed
    assert "images/s; on tensors that lie ready" in printed
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
    assert "Accuracy on 4 images" in capsys.readouterr().out
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
    model = decompose.load(path)
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4)
    assert model.get_submodule("layer1.0.conv1").form == "merged"
    assert model.get_submodule("layer2.0.conv2").form == "branches-whole"
    capsys.readouterr()
    for wrong, message in (
        ("wide", "form 'wide' does not exist"),
        ("x.*=merged", "no layer has that"),
    ):
        assert run("tune", small, "-o", path, "--form", wrong) == 2
        assert message in capsys.readouterr().err
    assert run("tune", "torchvision:resnet18,weights=none", "-o", path) == 2
    assert "no decomposed layer" in capsys.readouterr().err
    timed = ["--engines", "onnxruntime", "--input-size", "32", "--rounds", "1"]
    assert run("benchmark", ARCH, small, *timed, "--layers", "--tune") == 0


def test_export_writes_what_onnxruntime_runs(small: Path, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "small.onnx"
    assert run("export", small, "-o", path, "--input-size", "64") == 0
    assert "Its outputs equal torch's" in capsys.readouterr().out
    assert path.stat().st_size > 0


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
    command = [sys.executable, "-m", "decompose"]
    ended = subprocess.run(
        [*command, "inspect", "no.pth"], check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: no.pth: no such file\n"
