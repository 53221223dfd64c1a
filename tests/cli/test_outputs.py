"""All files that a command writes appear together, or none of them."""

from pathlib import Path

import pytest
import torch
from torch import nn

import decompose
from tests.cli.cases import ARCH, Captured, run

SIZE = ["--input-size", 32]
COMMANDS = {
    "inspect": ["inspect", "SMALL", *SIZE, "-o", "OUT.json"],
    "compare": ["compare", "ORIGINAL", "SMALL", *SIZE, "-o", "OUT.json"],
    "benchmark": ["benchmark", "ORIGINAL", "SMALL", *SIZE, "--rounds", 1, "-o", "OUT.json"],
    "compress": [
        *("compress", "ORIGINAL", "--arch", ARCH, "--rank", 3, "--skip", "conv1"),
        *("--save-plan", "OUT.json", "-o", "OUT.safetensors"),
    ],
    "tune": ["tune", "SMALL", *SIZE, "-o", "OUT.safetensors"],
    "evaluate": [
        *("evaluate", "SMALL", "--data", "VAL", *SIZE),
        *("--workers", 0, "--device", "cpu", "-o", "OUT.json"),
    ],
    "finetune": [
        *(
            "finetune",
            "SMALL",
            "--data",
            "VAL",
            "--validate",
            "VAL",
            *SIZE,
            "--epochs",
            1,
            "--batch-size",
            3,
        ),
        *("--workers", 0, "--device", "cpu", "-o", "OUT.safetensors"),
    ],
    "quantize": [
        *("quantize", "TINY", "--calibrate", "VAL", *SIZE, "--scale", 255),
        *("--max-images", 4, "-o", "OUT.onnx"),
    ],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_at_the_table_leaves_no_output(
    name: str,
    folder: Path,
    small: Path,
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _: str(tmp_path / "cache"))
    places = {"SMALL": small, "ORIGINAL": folder / "resnet18.pth", "VAL": folder / "val"}
    places |= {"TINY": tmp_path / "tiny.onnx"}
    if name == "quantize":
        tiny = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        decompose.to_onnx(tiny, torch.zeros(1, 3, 32, 32), places["TINY"])
    places |= {f"OUT.{e}": tmp_path / f"out.{e}" for e in ("json", "safetensors", "onnx")}
    command = [places.get(str(word), word) for word in COMMANDS[name]]
    old = [path for key, path in places.items() if key.startswith("OUT") and path in command]
    for path in old:
        path.write_text("old")
    if name == "evaluate":
        # What an interrupted run kept would be read.
        old[0].unlink()
    assert run(*command, "--table", "/dev/full") == 2
    words = "error: /dev/full: cannot be written: No space left on device"
    assert capsys.readouterr().err.splitlines()[-1] == words
    assert all(path.read_text() == "old" for path in old if path.exists())
    left = {path.name for path in tmp_path.iterdir()} - {path.name for path in old}
    kept_to_go_on = {"cache", "tiny.onnx", "out.checkpoints", ".out.json.0"}
    assert left <= kept_to_go_on, left


def test_a_table_of_nothing_measured_is_refused(
    small: Path, tmp_path: Path, capsys: Captured
) -> None:
    tables = ["--form", "merged", "--table", tmp_path / "table.md"]
    assert run("tune", small, *tables, "-o", tmp_path / "tuned.safetensors") == 2
    assert "--form measures nothing" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
