"""``decompose sweep``, as its users meet it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import decompose
from decompose.layers.discovery import find_decomposed
from tests.cli.cases import Captured, run

SOURCE = "timm:test_resnet,weights=none"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    decompose.save(decompose.load(SOURCE), path)
    return path


def test_a_sweep_job_by_job(source: Path, tmp_path: Path, capsys: Captured) -> None:
    folder, pictures = tmp_path / "sweep", tmp_path / "images"
    pictures.mkdir()
    for index in range(8):
        pixels = np.random.default_rng(index).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{index}.png")
    command = ["sweep", source, "--macs", "0.8,0.6", "--methods", "spatial,channel"]
    command += ["--calibrate", pictures, "--input-size", "32", "--effort", "quick", "-o", folder]
    names = [f"macs-{share}-images-spatial,channel" for share in ("0.8", "0.6")]
    assert run(*command, "--only", "macs-0.7-images") == 2
    assert names[0] in capsys.readouterr().err
    assert not folder.exists()
    assert run(*command, "--only", names[1]) == 0
    assert "1 of 2 budgets are not made yet" in capsys.readouterr().out
    assert run(*command) == 0
    printed = capsys.readouterr().out
    assert "not made yet" not in printed
    assert all(f"{name}: done" in printed for name in names)
    record = json.loads((folder / "sweep.json").read_text())
    assert [point["name"] for point in record["points"]] == names
    assert record["original"]["title"].endswith("on 2 images held out")
    assert names[0] in (folder / "sweep.md").read_text()
    assert "<svg" in (folder / "sweep.svg").read_text()
    assert find_decomposed(decompose.load(folder / f"{names[0]}.safetensors"))
    assert run(*command[:-3], "normal", "-o", folder) == 2
    assert "of another model, other images or other options" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "a sweep needs shares"),
        (["--macs", "0.5,half"], "macs '0.5,half'"),
        (["--macs", "0.5", "--synthetic"], "--synthetic and --max-images go with --calibrate"),
        (["--macs", "0.5", "--subset", "9"], "--subset"),
        (["--macs", "0.5", "--effort", "vast"], "effort 'vast'"),
    ],
)
def test_mistakes(options: list[str], message: str, tmp_path: Path, capsys: Captured) -> None:
    assert run("sweep", SOURCE, *options, "-o", tmp_path / "sweep") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()
