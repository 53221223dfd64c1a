"""ONNX and OpenVINO models are evaluated, compared, timed and learnt from, as others are."""

import json
from pathlib import Path

import pytest
import torch

import decompose
from decompose.models.export import export
from tests.cli.cases import Captured, run

ARCH = "torchvision:squeezenet1_1,weights=none,num_classes=6"
SIZE = "32"
LEARNT = "small.safetensors", "--teacher", "model.safetensors", "-o", "a.safetensors"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as torch's, as ONNX and as OpenVINO's, and a checkpoint that compress made of it."""
    folder = tmp_path_factory.mktemp("engines")
    torch.manual_seed(0)
    model = decompose.load(ARCH)
    decompose.save(model, folder / "model.safetensors")
    images = torch.rand(2, 3, 32, 32)
    export(model, images, folder / "model.onnx")
    export(decompose.load(folder / "model.onnx"), images, folder / "model.xml")
    asked = ["--rank", "2", "--input-size", SIZE, "-o", folder / "small.safetensors"]
    assert run("compress", folder / "model.safetensors", *asked) == 0
    return folder


def test_evaluate_measures_the_files_as_they_run(
    files: Path, folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    names = [files / f"model.{suffix}" for suffix in ("safetensors", "onnx", "xml")]
    record = tmp_path / "record.json"
    asked = ["--data", folder / "val", "--input-size", SIZE, "--workers", 0, "-o", record]
    assert run("evaluate", *names, *asked) == 0
    found = json.loads(record.read_text())
    assert [found["accuracies"][str(name)]["agreement"] for name in names] == [1.0] * 3
    looks = list(found["provenance"]["preprocessing"].values())
    assert looks[0] == looks[1] == looks[2]
    digests = set(found["provenance"]["weights"].values())
    assert len(digests) == 3
    # Their own preprocessing, where they are given one.
    look = ["--scale", "255", "--mean", "104,117,124", "--bgr"]
    assert run("evaluate", *names, *asked[:-2], *look, "-o", tmp_path / "other.json") == 0
    looks = json.loads((tmp_path / "other.json").read_text())["provenance"]["preprocessing"]
    assert "is_bgr=True" in looks[str(names[1])]
    assert "is_bgr" not in looks[str(names[0])]
    capsys.readouterr()


def test_compare_measures_outputs(
    files: Path, folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    record = tmp_path / "record.json"
    for small in ("model.onnx", "model.xml", "small.safetensors"):
        images = ["--images", folder / "val", "--input-size", SIZE, "--workers", 0]
        assert run("compare", files / "model.onnx", files / small, *images, "-o", record) == 0
        found = json.loads(record.read_text())
        assert found["num_inputs"] == 6
        same = small != "small.safetensors"
        assert (found["output_error"] < 1e-8) == same
    assert "Same top-1 class" in capsys.readouterr().out


def test_benchmark_times_openvino_models(files: Path, tmp_path: Path) -> None:
    asked = ["--engines", "openvino", "--input-size", SIZE, "--rounds", 1]
    record = tmp_path / "record.json"
    small = files / "model.xml"
    assert run("benchmark", files / "model.safetensors", small, *asked, "-o", record) == 0
    names = [latency["name"] for latency in json.loads(record.read_text())["latencies"]]
    assert names == [str(files / "model.safetensors"), str(small)]


@pytest.mark.filterwarnings("ignore:no epoch scores")  # of two images it is chance
def test_finetune_learns_from_an_onnx_teacher(
    files: Path, folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    asked = ["--teacher", files / "model.onnx", "--unlabelled", folder / "val", "--epochs", 1]
    asked += ["--input-size", SIZE, "--workers", 0, "--device", "cpu", "--holdout", "0.5"]
    asked += ["--batch-size", 2]
    command = ["finetune", files / "small.safetensors"]
    assert run(*command, *asked, "-o", tmp_path / "a.safetensors") == 0
    look = ["--scale", "255", "--mean", "104,117,124", "--bgr"]
    assert run(*command, *asked, *look, "-o", tmp_path / "b.safetensors") == 0
    states = [decompose.load(tmp_path / f"{name}.safetensors").state_dict() for name in "ab"]
    assert any(not torch.equal(states[0][key], states[1][key]) for key in states[0])
    capsys.readouterr()
    assert run(*command, *asked, "--features", 1, "-o", tmp_path / "c.safetensors") == 2
    assert "the teacher has no layers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["compare", "model.onnx", "model.xml"], "is compared by its outputs alone"),
        (["benchmark", "model.xml", "model.onnx"], "give --engines openvino"),
        (["evaluate", "model.xml", "--fix", "a=1", "--data", "."], "--fix is for the inputs"),
        (["inspect", "model.xml"], "model.xml: a model in OpenVINO's format is measured"),
        (["evaluate", "gone.xml", "--data", "."], "gone.xml: no such file"),
        (["evaluate", "model.xml", "--arch", ARCH, "--data", "."], "has its own architecture"),
        (["evaluate", "model.onnx", "--precision", "bfloat16", "--data", "."], "own precision"),
        (["evaluate", "model.safetensors", "--bgr", "--data", "."], "the images of an ONNX model"),
        (
            ["evaluate", "model.xml", "--input-size", "16", "--data", "."],
            "model.xml: the model takes inputs of 32x32 pixels only",
        ),
        (
            ["finetune", *LEARNT, "--data", ".", "--bgr"],
            "the images of an ONNX teacher",
        ),
    ],
)
def test_mistakes_end_in_one_line(
    files: Path,
    arguments: list[str],
    reason: str,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(files)
    before = sorted(files.iterdir())
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert sorted(files.iterdir()) == before
