"""An ONNX graph behaves as any torch network: outputs, gradients, statistics, plans."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, helper, numpy_helper
from torch import nn

import decompose
from decompose.compression.reconstruction.repair import repair_
from decompose.compression.statistics import gather
from decompose.layers.costs import count_params
from decompose.layers.discovery import find_decomposable, find_layers
from decompose.layers.survey import survey
from decompose.models.export import to_onnx_bytes
from decompose.models.onnx.model_file import array_of, read_model
from decompose.models.onnx.module import OnnxModule
from decompose.utils.errors import DecomposeError
from tests.models.onnx.cases import (
    make_model,
    node_tests,
    read,
    run_onnx,
    small_cnn,
    with_constant_weights,
)
from tests.support.strategies import Mixed


@pytest.fixture
def network(tmp_path: Path) -> OnnxModule:
    return read(small_cnn(), tmp_path)


def test_it_gives_what_onnxruntime_gives(network: OnnxModule) -> None:
    x = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(
        network(x).detach(), torch.from_numpy(run_onnx(small_cnn(), x)[0]), rtol=1e-4, atol=1e-4
    )


def test_layers_have_their_nodes_names_and_share_weights(network: OnnxModule) -> None:
    assert list(find_layers(network)) == ["stem", "block/1", "up", "head"]
    assert not network.left_alone
    # Both nodes of the block are one layer; the normalisation's are counted as well.
    stored = small_cnn().graph.initializer
    assert count_params(network) == sum(numpy_helper.to_array(t).size for t in stored)
    memory = array_of(network.model.weights["block.weight"]).ctypes.data
    block = network.get_submodule("block/1")
    assert isinstance(block, nn.Conv2d)
    assert block.weight.data_ptr() == memory


def test_a_matrix_and_its_transpose_are_two_layers(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("Gemm", ["x", "w"], ["a"], "encoder", transB=1),
        node("Relu", ["a"], ["b"]),
        node("Gemm", ["b", "w"], ["y"], "decoder"),
    ]
    weight = np.random.default_rng(0).standard_normal((4, 4), np.float32)
    model = make_model(nodes, {"w": weight}, ["n", 4], ["n", 4])
    network = read(model, tmp_path)
    assert list(find_layers(network)) == ["encoder", "decoder"]
    x = torch.randn(3, 4)
    np.testing.assert_allclose(network(x).detach(), run_onnx(model, x)[0], rtol=1e-5, atol=1e-5)


def test_copies_share_all_but_their_layers(network: OnnxModule) -> None:
    other = copy.deepcopy(network)
    assert other.model is network.model
    assert other.constants is network.constants
    assert other.get_submodule("stem") is not network.get_submodule("stem")


def test_gradients_pass_what_torch_runs_and_rectifiers_are_seen(network: OnnxModule) -> None:
    images = torch.randn(4, 3, 16, 16)
    found = gather(network, images, find_decomposable(network))
    # What ONNX Runtime runs lets no gradient through.
    assert {n for n, layer in found.layers.items() if layer.metric.any()} == {"up", "head"}
    # The block's second call ends in no rectifier.
    assert set(survey(network, images[:1]).rectifiers(["stem", "block/1", "up"])) == {"stem"}


def test_it_is_planned_repaired_and_compared_as_others_are(network: OnnxModule) -> None:
    images = torch.randn(6, 3, 16, 16)
    weights = {name: array_of(value).copy() for name, value in network.model.weights.items()}
    plan = decompose.plan(network, images[:1], macs=0.6, calibrate=images)
    small = decompose.apply(plan, network)
    assert decompose.compare(network, small, images).macs.ratio > 1.6
    assert {repaired.name for repaired in repair_(small, network, images)} == set(plan.layers)
    for name, array in weights.items():
        np.testing.assert_array_equal(array_of(network.model.weights[name]), array)


def test_torchs_own_exports(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Mixed().eval()
    x = torch.randn(2, 3, 16, 16)
    network = read(ModelProto.FromString(to_onnx_bytes(model, x)), tmp_path)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(find_layers(network)) == len(convolutions) + 1
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=1e-4, atol=1e-4)


CASES = list(node_tests("conv", "convtranspose"))


@pytest.mark.parametrize(("name", "model", "inputs"), CASES, ids=[case[0] for case in CASES])
def test_onnxs_own_convolutions(
    name: str, model: ModelProto, inputs: list[np.ndarray], tmp_path: Path
) -> None:
    model = with_constant_weights(model, inputs)
    network = read(model, tmp_path)
    x = torch.from_numpy(inputs[0])
    assert len(find_layers(network)) == 1
    with torch.no_grad():
        given = network(x)
    np.testing.assert_allclose(given, run_onnx(model, x)[0], rtol=1e-4, atol=1e-4)


def test_a_final_softmax_is_left_out(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [node("MatMul", ["x", "w"], ["scores"], "head"), node("Softmax", ["scores"], ["y"])]
    weight = 100 * np.eye(4, dtype=np.float32)
    network = read(make_model(nodes, {"w": weight}, ["n", 4], ["n", 4]), tmp_path)
    x = torch.randn(2, 4)
    torch.testing.assert_close(network(x).detach(), 100 * x)


def test_images_whose_channels_are_last_come_with_theirs_first(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2]),
        node("Conv", ["a", "w"], ["y"], "conv"),
    ]
    weight = np.ones((2, 3, 3, 3), np.float32)
    model = make_model(nodes, {"w": weight}, ["n", 8, 10, 3], ["n", 2, 6, 8])
    network = read(model, tmp_path)
    assert network.signature.shape() == (3, 8, 10)
    x = torch.randn(2, 3, 8, 10)
    np.testing.assert_allclose(
        network(x).detach(), run_onnx(model, x.permute(0, 2, 3, 1))[0], rtol=1e-4, atol=1e-4
    )


def test_float16_stays_float16(tmp_path: Path) -> None:
    network = read(small_cnn("float16"), tmp_path)
    x = torch.randn(2, 3, 16, 16).half()
    y = network(x).detach()
    assert y.dtype == torch.float16
    expected = torch.from_numpy(run_onnx(small_cnn("float16"), x)[0])
    torch.testing.assert_close(y, expected, rtol=0.02, atol=0.02)


def test_constants_follow_the_input_to_its_device(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["a"], "conv"),
        node("Mul", ["a", "gain"], ["b"]),
        node("Add", ["b", "shift"], ["c"]),
        node("Reshape", ["c", "sizes"], ["y"]),
    ]
    weights = {
        "w": np.ones((2, 3, 3, 3), np.float32),
        "shift": np.ones((2, 1, 1), np.float32),
        "sizes": np.array([0, -1]),
    }
    model = make_model(nodes, weights, ["n", 3, 8, 8], ["n", 72])
    model.graph.input.append(helper.make_tensor_value_info("gain", 1, [1]))
    path, x = tmp_path / "model.onnx", torch.randn(2, 3, 8, 8)
    onnx.save(model, path)
    network = OnnxModule(read_model(path), {"gain": 2})
    on_meta = copy.deepcopy(network).to("meta")
    with torch.inference_mode():
        on_meta(x.to("meta"))
    moved = on_meta(x.to("meta"))
    moved.sum().backward()
    assert (moved.device.type, moved.shape) == ("meta", (2, 72))
    assert network(x).isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_runs_on_a_gpu(network: OnnxModule) -> None:
    x = torch.randn(2, 3, 16, 16)
    expected = network(x).detach()
    given = copy.deepcopy(network).to("cuda")(x.to("cuda"))
    assert given.device.type == "cuda"
    given.sum().backward()
    torch.testing.assert_close(given.detach().cpu(), expected, rtol=1e-2, atol=1e-2)


def test_other_inputs_must_be_fixed(tmp_path: Path) -> None:
    node, value = helper.make_node, helper.make_tensor_value_info
    model = make_model([node("Mul", ["x", "gain"], ["y"])], {}, ["n", 4], ["n", 4])
    model.graph.input.append(value("gain", 1, [1]))
    with pytest.raises(DecomposeError, match=r"2 inputs \(x, gain\); all but one must be fixed"):
        read(model, tmp_path)
    path = tmp_path / "model.onnx"
    network = OnnxModule(read_model(path), {"gain": 2})
    torch.testing.assert_close(network(torch.ones(3, 4)), torch.full((3, 4), 2.0))
    with pytest.raises(DecomposeError, match="no input loss"):
        decompose.load(path, fixed={"loss": 1.0})


def test_a_graph_of_one_input_at_a_time_takes_several(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([1, 12]), "shape")
    model = make_model([helper.make_node("Reshape", ["x", "shape"], ["y"])], {}, [1, 3, 4], [1, 12])
    model.graph.initializer.append(shape)
    x = torch.randn(5, 3, 4)
    network = read(model, tmp_path)
    torch.testing.assert_close(network(x), x.flatten(1))
    assert to_onnx_bytes(network, x[:1])
    with pytest.raises(DecomposeError, match="takes one input at a time, not 5"):
        to_onnx_bytes(network, x)


def test_a_graph_of_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    model = make_model([helper.make_node("Relu", ["x"], ["y"])], {}, [4, 12], [4, 12])
    with pytest.raises(DecomposeError, match="x is a batch of 4 and no other; export the model"):
        read(model, tmp_path)


def test_absurd_sizes_are_refused_before_anything_runs(tmp_path: Path) -> None:
    model = small_cnn()
    padding = next(a for a in model.graph.node[0].attribute if a.name == "pads")
    padding.ints[:2] = [1 << 15, 1 << 15]
    with pytest.raises(DecomposeError, match=r"would be .* too large to run"):
        read(model, tmp_path)


def test_what_onnxruntime_cannot_run_is_named(tmp_path: Path) -> None:
    node = helper.make_node("Mystery", ["x"], ["y"], domain="nobody")
    model = make_model([node], {}, [1, 4], [1, 4])
    model.opset_import.append(helper.make_opsetid("nobody", 1))
    with pytest.raises(DecomposeError, match="ONNX Runtime cannot run Mystery"):
        read(model, tmp_path)(torch.zeros(1, 4))
