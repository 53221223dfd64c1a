"""Models as ONNX files."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import decompose
from decompose.models import export
from decompose.models.export import to_onnx
from decompose.utils.errors import DecomposeError
from tests.models.onnx.cases import make_model, read
from tests.support.averaged_head import averaged_head
from tests.support.strategies import Mixed

X = torch.randn(1, 3, 32, 32)


def test_the_file_takes_any_batch_and_gives_what_torch_gives(tmp_path: Path) -> None:
    model = Mixed().train()
    small = decompose.apply(decompose.plan(model, X, rank=2), model)
    path = tmp_path / "small.onnx"
    assert 0 <= to_onnx(small, X, path) < 1e-4
    assert model.training
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        expected = small.eval()(x)
    given = session.run(None, {"input": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(given), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def small() -> torch.nn.Module:
    model = Mixed()
    return decompose.apply(decompose.plan(model, X, rank=2), model).eval()


@torch.no_grad()
def test_an_exported_program_takes_any_batch(small: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "small.pt2"
    assert 0 <= export.export(small, X, path) < 1e-4
    assert [file.name for file in tmp_path.iterdir()] == ["small.pt2"]
    x = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(torch.export.load(path).module()(x), small(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_openvino_files_take_any_batch(small: torch.nn.Module, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = tmp_path / "small.xml"
    assert 0 <= export.export(small, X, path) < 1e-4
    assert {file.name for file in tmp_path.iterdir()} == {"small.xml", "small.bin"}
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    x = torch.randn(5, 3, 32, 32)
    given = torch.from_numpy(np.array(compiled([x.numpy()])[0]))
    torch.testing.assert_close(given, small(x), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_an_onnx_model_becomes_one_of_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    weights = {"w": np.random.default_rng(0).standard_normal((4, 3, 3, 3), np.float32)}
    conv = onnx.helper.make_node("Conv", ["x", "w"], ["y"], "conv", strides=[2, 2])
    # It takes one image at a time.
    model = read(make_model([conv], weights, [1, 3, 9, 9], [1, 4, 4, 4]), tmp_path)
    x = torch.randn(2, 3, 9, 9)
    assert export.export(model, x, tmp_path / "small.xml") < 1e-4
    with pytest.raises(DecomposeError, match=r"cannot become a \.pt2; export it as \.xml"):
        export.export(model, x, tmp_path / "small.pt2")


@pytest.mark.parametrize("name", ["bad.pt2", "bad.xml"])
def test_no_format_is_written_that_deviates(
    name: str, small: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(DecomposeError, match=r"not written: .* deviates from torch"):
        export.export(small, X, tmp_path / name)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DecomposeError, match=r"end its name in \.onnx, \.pt2 or \.xml"):
        export.require_exported_name("small.tflite")


def test_nothing_is_written_that_deviates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(DecomposeError, match="onnxruntime deviates from torch"):
        to_onnx(Mixed(), X, tmp_path / "bad.onnx")
    assert not list(tmp_path.iterdir())


def test_without_the_extra_the_message_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(DecomposeError, match=r"pip install 'torch-decompose\[onnx\]'"):
        to_onnx(Mixed(), X, tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        ([1.0, -np.inf, 2.5], 0.25),
        ([np.nan, -np.inf, 2.0], np.inf),
        ([1.0, 0.0, 2.0], np.inf),
        ([1.0, -np.inf, np.inf], np.inf),
    ],
)
def test_masked_scores_are_compared_as_such(ours: list[float], expected: float) -> None:
    theirs = np.array([1.0, -np.inf, 2.0])
    assert export._relative_difference(np.array(ours), theirs) == pytest.approx(expected)


def test_a_layer_that_runs_on_a_mean_is_exported(tmp_path: Path) -> None:
    model = averaged_head(torch.nn.ReLU())
    small = decompose.apply(decompose.Plan({"3": decompose.Choice("pool", 1)}), model)
    x = torch.rand(2, 4, 12, 12)
    path = tmp_path / "small.onnx"
    assert to_onnx(small, x[:1], path) < 1e-5
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = session.run(None, {"input": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(given), small(x), rtol=1e-4, atol=1e-5)
