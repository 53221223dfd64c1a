"""What is constant in a graph, and what its nodes read."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import helper, numpy_helper

from decompose.layers.discovery import find_layers
from decompose.models.onnx.graph import constants_of, read_names
from decompose.models.onnx.model_file import to_model
from tests.models.onnx.cases import make_model, read, run_onnx, small_cnn

WEIGHT = np.zeros((4, 2, 3, 3), np.float32)


def test_constants_come_from_initialisers_nodes_and_what_passes_them_on() -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(WEIGHT)),
        helper.make_node("Identity", ["c"], ["d"]),
        helper.make_node("Constant", [], ["e"], value_ints=[1, 2]),
        helper.make_node("Conv", ["x", "d"], ["y"]),
    ]
    model = make_model(nodes, {"unused": WEIGHT}, [1, 2, 8, 8], [1, 4, 6, 6])
    constants = constants_of(to_model(model))
    assert set(constants) == {"unused", "c", "d", "e"}
    assert constants["e"].tolist() == [1, 2]


@pytest.mark.parametrize("ir_version", [3, 8])
def test_initialisers_that_are_listed_as_inputs_are_their_defaults(
    ir_version: int, tmp_path: Path
) -> None:
    model = small_cnn()
    model.ir_version = ir_version
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )
    assert "stem.bias" in constants_of(to_model(model))
    network, x = read(model, tmp_path), torch.randn(2, 3, 16, 16)
    assert len(find_layers(network)) == 4
    np.testing.assert_allclose(
        network(x).detach(), run_onnx(small_cnn(), x)[0], rtol=1e-4, atol=1e-4
    )


def test_bodies_read_what_is_outside_of_them() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["inner", "outer"], ["sum"])],
        "body",
        [],
        [helper.make_tensor_value_info("sum", 1, [1])],
        [numpy_helper.from_array(np.zeros(1, np.float32), "inner")],
    )
    node = helper.make_node("If", ["condition"], ["y"], then_branch=body, else_branch=body)
    assert read_names(ir.from_proto(node)) == ["condition", "outer"]
