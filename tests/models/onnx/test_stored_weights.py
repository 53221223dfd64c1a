"""Costs of an ONNX graph are those of its file: all layers count, and what is stored once counts once."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper

import decompose
from decompose.layers.costs import count_macs, count_params, trace_shapes
from decompose.layers.discovery import find_layers
from decompose.utils.errors import DecomposeError
from tests.models.onnx.cases import (
    OPSET,
    make_model,
    read,
    run_onnx,
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
    # Kernels in 8 bits are counted with the others, and kept.
    assert count_params(network) == 2 * 2 * 3 * 9
    assert decompose.compare(network, small, x).params.before == 2 * 2 * 3 * 9
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
