"""``decompose report``."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.cases import Captured, run

pytest.importorskip("vl_convert", reason="the report extra is not installed")


def test_a_report_is_one_page(folder: Path, small: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    arguments = ["--original", folder / "resnet18.pth", "--input-size", "64", "--no-timing"]
    data = ["--images", folder / "val", "--data", folder / "val", "--workers", "0"]
    assert run("report", small, *arguments, *data, "-o", page) == 0
    (text,) = re.findall(r'id="figures">(.*?)</script>', page.read_text(encoding="utf-8"))
    record = json.loads(text)
    original, compressed = record["models"]
    assert original["macs"] > compressed["macs"]
    assert compressed["accuracy"]["top1"]["low"] < compressed["accuracy"]["top1"]["high"]
    assert compressed["fidelity"]["num_images"] == 6
    assert record["images"] == f"images of {folder / 'val'}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["r.safetensors", "--original", "x.pth", "-o", "report.pdf"], "end in .html"),
        (["x.pth", "--original", "x.pth", "-o", "report.html"], "named twice"),
        (["x.onnx", "--original", "y.onnx", "-o", "report.html"], "ONNX models have no report"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    capsys: Captured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("report", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
