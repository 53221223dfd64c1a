"""What is written is the original but for the nodes of rewritten layers, and runs as the network does."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, helper
from torch import Tensor, nn

import decompose
from decompose.layers.discovery import find_layers
from decompose.layers.modules import give_bias
from decompose.models.onnx.model_file import to_model
from decompose.models.onnx.module import OnnxModule
from decompose.models.onnx.rewriting import rewritten, self_contained, write_rewritten
from decompose.models.onnx.writing import model_bytes
from decompose.utils.files import write_text, writing_together
from tests.models.onnx.cases import (
    make_model,
    node_tests,
    read,
    run_onnx,
    small_cnn,
    with_constant_weights,
)

METHODS = ("pw_dw", "dw_pw", "spatial", "channel", "tucker", "cp", "svd")


def rewritten_by(network: OnnxModule, x: Tensor, method: str) -> OnnxModule | None:
    """The network with all layers that the method can rewrite in one term."""
    try:
        ranks = dict.fromkeys(find_layers(network), 1)
        plan = decompose.plan(network, x, method=method, rank=ranks)
    except decompose.DecomposeError:
        return None
    small = decompose.apply(plan, network)
    assert isinstance(small, OnnxModule)
    return small if plan.layers else None


def check_file(path: Path, small: OnnxModule, x: Tensor, tolerance: float = 1e-4) -> ModelProto:
    write_rewritten(small, path)
    onnx.checker.check_model(path, full_check=True)
    with torch.no_grad():
        expected = small(x)
    given = torch.from_numpy(run_onnx(path, x)[0])
    torch.testing.assert_close(given, expected, rtol=tolerance, atol=tolerance)
    return onnx.load(path)


@pytest.mark.parametrize("method", METHODS[:-1])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_method(method: str, dtype: str, tmp_path: Path) -> None:
    network = read(small_cnn(dtype), tmp_path)
    x = torch.randn(2, 3, 16, 16).to(getattr(torch, dtype))
    plan = decompose.plan(network, x, method=method, rank={"stem": 2, "block/1": 2, "up": 2})
    small = decompose.apply(plan, network)
    assert isinstance(small, OnnxModule)
    assert len(plan.layers) == 3
    model = check_file(tmp_path / "small.onnx", small, x, 1e-4 if dtype == "float32" else 0.02)
    kinds = {t.data_type for t in model.graph.initializer if t.data_type != onnx.TensorProto.INT64}
    assert kinds == {network.model.content.graph.inputs[0].dtype}


def test_all_else_is_as_it_was(tmp_path: Path) -> None:
    original = small_cnn()
    original.graph.node[3].doc_string = "kept"
    original.graph.node[2].metadata_props.add(key="from", value="somewhere")
    network = read(original, tmp_path)
    x = torch.randn(1, 3, 16, 16)
    small = decompose.apply(decompose.plan(network, x, rank={"block/1": 2}), network)
    assert isinstance(small, OnnxModule)
    model = check_file(tmp_path / "small.onnx", small, x)
    for name in ("opset_import", "metadata_props", "producer_name", "doc_string", "ir_version"):
        assert getattr(model, name) == getattr(original, name)
    assert (model.graph.input, model.graph.output) == (original.graph.input, original.graph.output)
    untouched = [node for node in original.graph.node if not node.name.startswith("block")]
    assert [node for node in model.graph.node if node in untouched] == untouched
    last = next(node for node in model.graph.node if node.name == "block/1")
    assert last.output[0] == "c"
    assert last.metadata_props[0].value == "somewhere"
    # Both of its nodes are rewritten, and read the same weights, which nothing else does any more.
    names = [tensor.name for tensor in model.graph.initializer]
    assert "block.weight" not in names
    assert len([name for name in names if "block" in name]) == 4
    typed = {value.name for value in model.graph.value_info}
    assert {name for node in model.graph.node for name in node.output if "/value" in name} <= typed


def test_a_network_that_nothing_changed_is_the_original(tmp_path: Path) -> None:
    network = read(small_cnn(), tmp_path)
    content = ModelProto.FromString(model_bytes(rewritten(network)))
    assert content.graph.node == small_cnn().graph.node


def test_layers_that_were_trained_are_written_anew(tmp_path: Path) -> None:
    network = read(small_cnn(), tmp_path)
    up, block, head = (find_layers(network)[name] for name in ("up", "block/1", "head"))
    assert isinstance(up, nn.ConvTranspose2d)
    give_bias(up)
    with torch.no_grad():
        for layer in (up, block, head):
            for parameter in layer.parameters():
                parameter.add_(0.1)
    check_file(tmp_path / "trained.onnx", network, torch.randn(2, 3, 16, 16))


CASES = list(node_tests("conv", "convtranspose"))


@pytest.mark.parametrize(("name", "model", "inputs"), CASES, ids=[case[0] for case in CASES])
def test_onnxs_own_convolutions(
    name: str, model: ModelProto, inputs: list[np.ndarray], tmp_path: Path
) -> None:
    network = read(with_constant_weights(model, inputs), tmp_path)
    x = torch.from_numpy(inputs[0])
    made = [rewritten_by(network, x, method) for method in METHODS]
    assert any(made)
    for small in made:
        if small is not None:
            written = check_file(tmp_path / "small.onnx", small, x)
            assert written.graph.output == model.graph.output


def conv_model(*, opset: int, ir_version: int = 8, kind: str = "Conv", **attributes: Any):
    weights = {"w": np.random.default_rng(0).standard_normal((4, 4, 3, 3)).astype("f4")}
    node = helper.make_node(kind, ["x", "w"], ["y"], "only", **attributes)
    rank = ["n", 4, None, None]
    return make_model([node], weights, rank, rank, opset=opset, ir_version=ir_version)


@pytest.mark.parametrize("automatic", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_padding_that_follows_the_size_still_does(automatic: str, tmp_path: Path) -> None:
    model = conv_model(opset=13, auto_pad=automatic, strides=[2, 3])
    network = read(model, tmp_path)
    for method in ("pw_dw", "dw_pw", "spatial", "tucker"):
        small = rewritten_by(network, torch.zeros(1, 4, 9, 9), method)
        assert small is not None
        for size in ((8, 9), (11, 10)):
            check_file(tmp_path / "small.onnx", small, torch.randn(2, 4, *size))


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 21])
def test_old_and_new_opsets_and_what_is_cut_off(opset: int, tmp_path: Path) -> None:
    model = conv_model(
        opset=opset, ir_version=3 if opset < 9 else 8, kind="ConvTranspose", pads=[0, 0, 2, 1]
    )
    network = read(model, tmp_path)
    x = torch.randn(2, 4, 6, 5)
    for method in ("pw_dw", "spatial"):
        small = rewritten_by(network, x, method)
        assert small is not None
        written = check_file(tmp_path / "small.onnx", small, x)
        assert written.opset_import == model.opset_import
        assert written.ir_version == model.ir_version


def test_weights_in_nodes_go_with_them(tmp_path: Path) -> None:
    model = conv_model(opset=13)
    weight = model.graph.initializer.pop()
    nodes = [
        helper.make_node("Constant", [], ["c"], value=weight),
        helper.make_node("Identity", ["c"], ["w"]),
        *model.graph.node,
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    network = read(model, tmp_path)
    small = rewritten_by(network, torch.zeros(1, 4, 8, 8), "pw_dw")
    assert small is not None
    written = check_file(tmp_path / "small.onnx", small, torch.randn(1, 4, 8, 8))
    assert {node.op_type for node in written.graph.node} == {"Conv"}


def test_weights_that_are_listed_as_inputs_go_from_both_lists(tmp_path: Path) -> None:
    model = small_cnn()
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )
    x = torch.randn(1, 3, 16, 16)
    small = rewritten_by(read(model, tmp_path), x, "pw_dw")
    assert small is not None
    write_rewritten(small, tmp_path / "small.onnx")
    graph = onnx.load(tmp_path / "small.onnx").graph
    kept = ["scale", "shift", "head.weight", "head.bias"]
    assert [value.name for value in graph.input] == ["x", *kept]
    assert "up.weight" not in {tensor.name for tensor in graph.initializer}


def test_external_data_stays_external(tmp_path: Path) -> None:
    path = tmp_path / "external.onnx"
    onnx.save(small_cnn(), path, save_as_external_data=True, location="w", size_threshold=64)
    network = decompose.load(path)
    x = torch.randn(1, 3, 16, 16)
    small = decompose.apply(decompose.plan(network, x, rank={"up": 2}), network)
    decompose.save(small, tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx.data").exists()
    given = torch.from_numpy(run_onnx(tmp_path / "small.onnx", x)[0])
    torch.testing.assert_close(given, small(x).detach(), rtol=1e-4, atol=1e-4)


def test_external_data_appears_with_the_other_outputs_or_not_at_all(tmp_path: Path) -> None:
    path, small = tmp_path / "external.onnx", tmp_path / "small.onnx"
    onnx.save(small_cnn(), path, save_as_external_data=True, location="w", size_threshold=64)
    network = decompose.load(path)
    decompose.save(network, small)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def write_both() -> None:
        with writing_together():
            decompose.save(network, small)
            write_text("/dev/full", "figures")

    with pytest.raises(decompose.DecomposeError, match="/dev/full: cannot be written"):
        write_both()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    decompose.save(network, small)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"external.onnx", "w", "small.onnx", "small.onnx.2.data"}


def test_a_self_contained_model_takes_what_the_network_takes(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2]),
        node("Mul", ["a", "gain"], ["b"]),
        node("Conv", ["b", "w"], ["y"], "conv"),
    ]
    weight = np.ones((2, 3, 3, 3), np.float32)
    model = make_model(nodes, {"w": weight}, ["n", 8, 10, 3], ["n", 2, 6, 8])
    model.graph.input.append(helper.make_tensor_value_info("gain", 1, [1]))
    network = OnnxModule(to_model(model), {"gain": 2.0})
    x = torch.randn(2, 3, 8, 10)
    alone = ModelProto.FromString(model_bytes(self_contained(network)))
    onnx.checker.check_model(alone, full_check=True)
    np.testing.assert_allclose(run_onnx(alone, x)[0], network(x).detach(), rtol=1e-4, atol=1e-4)
