"""``decompose quantize``, as its users meet it."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import decompose
from decompose.models.onnx.module import OnnxModule
from tests.cli.cases import Captured, run

SOURCE = "timm:test_resnet,weights=none"


def test_quantize_writes_a_model_and_names_what_loses_most(
    folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    small, path, table = (tmp_path / name for name in ("a.safetensors", "a.onnx", "table.md"))
    asked = "--rank", "2", "--input-size", "32", "--fold-batchnorm"
    assert run("compress", SOURCE, *asked, "-o", small) == 0
    capsys.readouterr()
    command = ["quantize", small, "--calibrate", folder / "val", "-o", path]
    assert run(*command, "--max-images", "4", "--keep-float", "2", "--table", table) == 0
    printed = capsys.readouterr().out
    assert "INT8 for onnxruntime" in printed
    assert f"Wrote {path}, {table}" in printed
    kept = [line for line in table.read_text().splitlines() if line.endswith(" float |")]
    assert len(kept) == 2
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = torch.randn(2, 3, 160, 160)
    given = np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    model = decompose.load(small)
    with torch.no_grad():
        wanted = model(x)
    assert given.shape == tuple(wanted.shape)


def test_onnx_models_are_quantised(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    source, path = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    decompose.to_onnx(model, torch.zeros(1, 3, 16, 16), source)
    command = ["quantize", source, "--calibrate", folder / "val", "--input-size", "16"]
    assert run(*command, "--scale", "255", "-o", path) == 0
    assert "2 of 2 layers" in capsys.readouterr().out
    assert isinstance(decompose.load(source), OnnxModule)
    assert path.stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "a.xml"], r"INT8 models for onnxruntime are .onnx files"),
        (["-o", "a.onnx", "--engine", "openvino"], "INT8 models for openvino are .xml files"),
        (["-o", "a.onnx", "--engine", "eager"], "there are: onnxruntime, openvino"),
        (["-o", "a.onnx", "--weight-bits", "4"], "weights have 7 or 8 bits"),
        (["-o", "a.onnx", "--calibrate", "."], "holds no image"),
    ],
)
def test_bad_input_gets_one_line(
    arguments: list[str],
    message: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("quantize", SOURCE, "--calibrate", folder / "val", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
