"""An ONNX graph behaves as any torch network: outputs, gradients, statistics, plans."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import nn

import decompose
from decompose.compression.reconstruction.repair import repair_
from decompose.compression.statistics import gather
from decompose.layers.costs import count_macs, count_params, trace_shapes
from decompose.layers.discovery import find_decomposable, find_layers
from decompose.layers.survey import survey
from decompose.models.export import to_onnx_bytes
from decompose.models.onnx.model_file import array_of, read_model
from decompose.models.onnx.module import OnnxModule
from decompose.utils.errors import DecomposeError
from tests.models.onnx.cases import (
    OPSET,
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


def test_what_is_inside_bodies_is_left_alone(tmp_path: Path) -> None:
    node, value = helper.make_node, helper.make_tensor_value_info
    output = value("z", 1, [1, 2, 6, 6])
    body = helper.make_graph([node("Conv", ["x", "w"], ["z"], "inner")], "body", [], [output])
    choose = node("If", ["condition"], ["y"], "choose", then_branch=body, else_branch=body)
    weights = {"w": np.ones((2, 3, 3, 3), np.float32), "condition": np.array(True)}
    model = make_model([choose], weights, [1, 3, 8, 8], [1, 2, 6, 6])
    network = read(model, tmp_path)
    assert network.left_alone == {"inner": "it is inside choose"}
    x = torch.randn(1, 3, 8, 8)
    np.testing.assert_allclose(network(x), run_onnx(model, x)[0], rtol=1e-4, atol=1e-4)


MACS = 2 * 3 * 3 * 3 * 6 * 6


def conv_in(kind: str) -> ModelProto:
    """A convolution that is a layer, and one of the same cost that may be none."""
    node, value = helper.make_node, helper.make_tensor_value_info
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {
        name: rng.standard_normal((2, 3, 3, 3), np.float32) for name in ("w", "v")
    }
    conv = node("Conv", ["x", "v"], ["inner_y"], "inner")
    body = helper.make_graph([conv], "body", [], [value("inner_y", 1, [1, 2, 6, 6])])
    last: list[NodeProto]
    if kind == "If":
        weights["condition"] = np.array(True)
        other = helper.make_graph(
            [node("If", ["condition"], ["z"], "deep", then_branch=body, else_branch=body)],
            "outer body",
            [],
            [value("z", 1, [1, 2, 6, 6])],
        )
        last = [node("If", ["condition"], ["b"], "choose", then_branch=other, else_branch=other)]
    elif kind == "QLinearConv":
        weights |= {"scale": np.float32(0.1), "zero": np.uint8(128)}
        weights["v"] = weights["v"].astype(np.uint8)
        given = ["q", "scale", "zero", "v", "scale", "zero", "scale", "zero"]
        last = [
            node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            node("QLinearConv", given, ["r"], "inner"),
            node("DequantizeLinear", ["r", "scale", "zero"], ["b"]),
        ]
    else:
        last = [node("Convolve", ["x", "v"], ["b"], "call", domain="local")]
    nodes = [node("Conv", ["x", "w"], ["a"], "conv"), *last, node("Add", ["a", "b"], ["y"])]
    model = make_model(nodes, weights, [1, 3, 8, 8], [1, 2, 6, 6])
    if kind == "function":
        opset = helper.make_opsetid("", OPSET)
        inner = node("Conv", ["p", "q"], ["r"], "inner")
        model.functions.append(
            helper.make_function("local", "Convolve", ["p", "q"], ["r"], [inner], [opset])
        )
        model.opset_import.append(helper.make_opsetid("local", 1))
    return model


@pytest.mark.parametrize(
    ("kind", "left_alone"),
    [
        ("If", {"inner": "it is inside deep"}),
        ("QLinearConv", {"inner": "it is quantised already"}),
        ("function", {}),
    ],
)
def test_every_convolution_is_counted_and_is_a_layer_or_has_a_reason(
    kind: str, left_alone: dict[str, str], tmp_path: Path
) -> None:
    model = conv_in(kind)
    network, x = read(model, tmp_path), torch.randn(1, 3, 8, 8)
    np.testing.assert_allclose(network(x).detach(), run_onnx(model, x)[0], rtol=1e-4, atol=1e-4)
    assert network.left_alone == left_alone
    assert list(find_layers(network)) == ["conv"] + ["inner"] * (not left_alone)
    assert sum(count_macs(network, trace_shapes(network, x)).values()) == 2 * MACS
    small = decompose.apply(decompose.plan(network, x, rank={"conv": 1}), network)
    macs = decompose.compare(network, small, x).macs
    assert macs.before == 2 * MACS
    assert MACS < macs.after < 2 * MACS
    decompose.save(small, tmp_path / "small.onnx")
    given = run_onnx(tmp_path / "small.onnx", x)[0]
    np.testing.assert_allclose(given, small(x).detach(), rtol=1e-4, atol=1e-4)


def num_stored(path: Path) -> int:
    """Elements of a file's floating initialisers."""
    return sum(
        numpy_helper.to_array(t).size for t in onnx.load(path).graph.initializer if t.data_type == 1
    )


def dense_in(kind: str) -> ModelProto:
    """A fully connected layer that is a module, and one of the same cost that is inside a body."""
    node, value = helper.make_node, helper.make_tensor_value_info
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {n: rng.standard_normal((24, 24), np.float32) for n in ("w", "v")}
    weights |= {"yes": np.array(True), "rounds": np.array(3)}
    inner = node("MatMul", ["state" if kind == "Loop" else "a", "v"], ["z"], "inner")
    if kind == "Gemm":
        inner = node("Gemm", ["a", "v"], ["z"], "inner", transB=1)
    z = value("z", 1, [1, 24])
    if kind == "Loop":
        carried = [value("round", 7, []), value("go", 9, []), value("state", 1, [1, 24])]
        body = helper.make_graph(
            [node("Identity", ["go"], ["goes_on"]), inner],
            "body",
            carried,
            [value("goes_on", 9, []), z],
        )
        last = node("Loop", ["rounds", "yes", "a"], ["y"], "holder", body=body)
    else:
        body = helper.make_graph([inner], "body", [], [z])
        last = node("If", ["yes"], ["y"], "holder", then_branch=body, else_branch=body)
    nodes = [node("MatMul", ["x", "w"], ["a"], "head"), last]
    return make_model(nodes, weights, [1, 24], [1, 24])


@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "Loop"])
def test_a_fully_connected_layer_inside_a_body_is_counted(kind: str, tmp_path: Path) -> None:
    model = dense_in(kind)
    network, x = read(model, tmp_path), torch.randn(1, 24)
    assert network.left_alone == {"inner": "it is inside holder"}
    rounds = 3 if kind == "Loop" else 1
    assert network(x).shape == (1, 24)
    assert network.other_macs == {"inner": rounds * 24 * 24}
    small = decompose.apply(decompose.plan(network, x, rank={"head": 4}, method="svd"), network)
    macs = decompose.compare(network, small, x).macs
    assert (macs.before, macs.after) == ((1 + rounds) * 24 * 24, rounds * 24 * 24 + 2 * 4 * 24)


@pytest.mark.parametrize("num_channels", [4, 24])
@pytest.mark.parametrize("kind", ["Conv", "Gather"])
def test_weights_of_several_nodes_count_once_before_and_after(
    kind: str, num_channels: int, tmp_path: Path
) -> None:
    node, n = helper.make_node, num_channels
    rng = np.random.default_rng(0)
    if kind == "Conv":
        weights: dict[str, np.ndarray] = {"w": rng.standard_normal((n, n, 3, 3), np.float32)}
        nodes = [
            node("Conv", ["x", "w"], ["a"], "near", pads=[1] * 4),
            node("Conv", ["a", "w"], ["y"], "far", pads=[2] * 4, dilations=[2, 2]),
        ]
        shape: list[int | str] = ["n", n, 8, 8]
    else:
        weights = {"w": rng.standard_normal((n, n), np.float32), "row": np.array([1])}
        nodes = [
            node("Gather", ["w", "row"], ["token"]),
            node("Add", ["x", "token"], ["a"]),
            node("Gemm", ["a", "w"], ["y"], "head", transB=1),
        ]
        shape = ["n", n]
    network = read(make_model(nodes, weights, shape, shape), tmp_path)
    x = torch.randn(1, n, 8, 8) if kind == "Conv" else torch.randn(1, n)
    assert count_params(network) == weights["w"].size
    ranks = dict.fromkeys(find_layers(network), 1)
    small = decompose.apply(decompose.plan(network, x, rank=ranks, method=_METHODS[kind]), network)
    for model, path in ((network, "same.onnx"), (small, "small.onnx")):
        decompose.save(model, tmp_path / path)
        assert count_params(model) == num_stored(tmp_path / path)
        given = run_onnx(tmp_path / path, x)[0]
        np.testing.assert_allclose(given, model(x).detach(), rtol=1e-3, atol=1e-3)


_METHODS = {"Conv": "pw_dw", "Gather": "svd"}


def tied(kind: str) -> ModelProto:
    """An initialiser that two nodes read: a matrix both ways, a kernel both ways, a bias, or a body's."""
    node, value = helper.make_node, helper.make_tensor_value_info
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {"w": rng.standard_normal((32, 32), np.float32)}
    shape: list[int | str] = ["n", 32]
    if kind == "transposed kernel":
        shape = ["n", 32, 6, 6]
        weights["w"] = rng.standard_normal((32, 32, 3, 3), np.float32)
        nodes = [
            node("Conv", ["x", "w"], ["a"], "encoder"),
            node("ConvTranspose", ["a", "w"], ["y"], "decoder"),
        ]
    elif kind == "bias":
        weights |= {"v": weights["w"][::-1].copy(), "shift": np.ones(32, np.float32)}
        nodes = [
            node("Gemm", ["x", "w", "shift"], ["a"], "encoder", transB=1),
            node("Gemm", ["a", "v", "shift"], ["y"], "decoder", transB=1),
        ]
    elif kind == "body":
        body = helper.make_graph(
            [node("MatMul", ["a", "v"], ["z"], "inner")],
            "body",
            [],
            [value("z", 1, shape)],
            [numpy_helper.from_array(weights["w"], "v")],
        )
        weights["yes"] = np.array(True)
        last = node("If", ["yes"], ["y"], "holder", then_branch=body, else_branch=body)
        nodes = [node("MatMul", ["x", "w"], ["a"], "encoder"), last]
    else:
        nodes = [
            node("Gemm", ["x", "w"], ["a"], "encoder", transB=1),
            node("Gemm", ["a", "w"], ["b"], "decoder"),
            node("Identity", ["w"], ["again"]),
            node("MatMul", ["b", "again"], ["y"], "last"),
        ]
    return make_model(nodes, weights, shape, shape)


def num_held(path: Path) -> int:
    """Elements of a file's floating initialisers, those of bodies included."""
    graph = onnx.load(path).graph
    held = num_stored(path)
    for node in graph.node:
        for attribute in node.attribute:
            held += sum(numpy_helper.to_array(t).size for t in attribute.g.initializer)
    return held


@pytest.mark.parametrize("kind", ["matrix", "transposed kernel", "bias", "body"])
def test_what_a_file_holds_once_counts_once_and_a_budget_holds_for_the_file(
    kind: str, tmp_path: Path
) -> None:
    model = tied(kind)
    network = read(model, tmp_path)
    x = torch.randn(1, 32, 6, 6) if "kernel" in kind else torch.randn(1, 32)
    decompose.save(network, tmp_path / "same.onnx")
    before = num_held(tmp_path / "same.onnx")
    assert count_params(network) == before
    # What one layer leaves of a tied weight, another still reads.
    for names in (["encoder"], list(find_layers(network))):
        ranks = dict.fromkeys(names, 2)
        method = "tucker" if "kernel" in kind else "svd"
        small = decompose.apply(decompose.plan(network, x, rank=ranks, method=method), network)
        decompose.save(small, tmp_path / "small.onnx")
        assert decompose.compare(network, small, x).params.before == before
        assert count_params(small) == num_held(tmp_path / "small.onnx")
    for share in (0.9, 0.7):
        small = decompose.apply(decompose.plan(network, x, params=share), network)
        decompose.save(small, tmp_path / "small.onnx")
        assert count_params(small) == num_held(tmp_path / "small.onnx") <= share * before
        given = run_onnx(tmp_path / "small.onnx", x)[0]
        np.testing.assert_allclose(given, small(x).detach(), rtol=1e-3, atol=1e-2)


def test_a_weight_that_stays_transposed_leaves_the_other_layer_dense(tmp_path: Path) -> None:
    network, x = read(tied("matrix"), tmp_path), torch.randn(1, 32)
    with pytest.raises(DecomposeError, match="no plan meets the budget"):
        decompose.plan(network, x, params=0.5, skip=["decoder"])
    plan = decompose.plan(network, x, params=1.0, skip=["decoder"])
    assert plan.dense["encoder"] == "its weight is decoder.weight as well"


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
