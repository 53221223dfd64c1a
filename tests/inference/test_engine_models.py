"""Files run whole in their engines give what torch gives."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

import decompose
from decompose.inference.engine_models import (
    EngineModel,
    OpenVinoModel,
    in_engine,
    is_openvino,
)
from decompose.inference.engines import get_engine
from decompose.models.export import export
from decompose.utils.errors import DecomposeError
from decompose.utils.hashing import weights_digest
from tests.models.onnx.cases import make_model, small_cnn


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
    ).eval()


def exported(model: nn.Module, path: Path) -> EngineModel:
    export(model, torch.rand(2, 3, 9, 9), path)
    made = OpenVinoModel(path) if is_openvino(path) else in_engine(decompose.load(path))
    assert isinstance(made, EngineModel)
    return made


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_outputs_are_torchs_for_any_batch(suffix: str, tmp_path: Path) -> None:
    model, x = classifier(), torch.randn(7, 3, 9, 9)
    made = exported(model, tmp_path / f"model{suffix}")
    with torch.no_grad():
        torch.testing.assert_close(made(x), model(x), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(made(x[:1]), model(x[:1]), atol=1e-5, rtol=1e-4)
    assert not list(made.parameters())
    assert copy.deepcopy(made) is made


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_softmax_at_the_end_is_left_out(suffix: str, tmp_path: Path) -> None:
    model, x = classifier(), torch.randn(3, 3, 9, 9)
    made = exported(nn.Sequential(model, nn.Softmax(1)).eval(), tmp_path / f"model{suffix}")
    with torch.no_grad():
        torch.testing.assert_close(made(x), model(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_models_are_known_by_their_content(suffix: str, tmp_path: Path) -> None:
    model = classifier()
    first = exported(model, tmp_path / f"a{suffix}")
    with torch.no_grad():
        model.get_parameter("0.weight").add_(1)
    other = exported(model, tmp_path / f"b{suffix}")
    again = exported(model, tmp_path / f"c{suffix}")
    assert weights_digest(first) != weights_digest(other)
    # OpenVINO numbers what it writes anew.
    assert suffix == ".xml" or weights_digest(other) == weights_digest(again)


def test_a_graph_of_one_image_in_its_own_order_takes_batches(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["x"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "w"], ["y"]),
    ]
    onnx.save(make_model(nodes, {"w": weight}, [1, 12, 12, 3], [1, 4, 10, 10]), tmp_path / "m.onnx")
    made = in_engine(decompose.load(tmp_path / "m.onnx"))
    x = torch.randn(3, 3, 12, 12)
    wanted = torch.nn.functional.conv2d(x, torch.from_numpy(weight))
    torch.testing.assert_close(made(x), wanted, atol=1e-5, rtol=1e-4)


def test_a_quantised_file_runs_as_it_is(tmp_path: Path) -> None:
    model, images = classifier(), torch.randn(8, 3, 9, 9)
    (path,) = decompose.quantize(model, images).save(tmp_path / "int8.onnx")
    made = in_engine(decompose.load(path))
    session = get_engine("onnxruntime").prepare(decompose.load(path), images, 1)
    (expected,) = session()  # type: ignore[misc]
    torch.testing.assert_close(made(images), torch.from_numpy(expected))
    assert not torch.equal(made(images), model(images))


def test_other_models_stay_as_they_are() -> None:
    model = classifier()
    assert in_engine(model) is model


def test_an_openvino_model_is_timed_in_openvino_alone(tmp_path: Path) -> None:
    made, x = exported(classifier(), tmp_path / "model.xml"), torch.randn(2, 3, 9, 9)
    get_engine("openvino").prepare(made, x, 1)()
    for name in ("eager", "onnxruntime"):
        with pytest.raises(DecomposeError, match="give --engines openvino"):
            get_engine(name).prepare(made, x, 1)


def test_mistakes(tmp_path: Path) -> None:
    onnx.save(small_cnn(), tmp_path / "m.onnx")
    made = in_engine(decompose.load(tmp_path / "m.onnx"))
    with pytest.raises(
        DecomposeError, match="ONNX Runtime cannot run the model on an input of 1x9"
    ):
        made(torch.zeros(1, 9, 5, 5))
    with pytest.raises(DecomposeError, match=r"m\.xml: no such file"):
        OpenVinoModel(tmp_path / "m.xml")
    for suffix in (".xml", ".bin"):
        (tmp_path / f"m{suffix}").write_bytes(b"no model")
    with pytest.raises(DecomposeError, match="is damaged or no OpenVINO model"):
        OpenVinoModel(tmp_path / "m.xml")
