"""What is constant in a graph, and what its nodes read."""

import numpy as np
from onnx import helper, numpy_helper

from decompose.onnx_files import OnnxModel
from decompose.onnx_graph import constants_of, read_names
from tests.onnx_cases import make_model, small_cnn

WEIGHT = np.zeros((4, 2, 3, 3), np.float32)


def test_constants_come_from_initialisers_nodes_and_what_passes_them_on() -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(WEIGHT)),
        helper.make_node("Identity", ["c"], ["d"]),
        helper.make_node("Constant", [], ["e"], value_ints=[1, 2]),
        helper.make_node("Conv", ["x", "d"], ["y"]),
    ]
    model = make_model(nodes, {"unused": WEIGHT}, [1, 2, 8, 8], [1, 4, 6, 6])
    constants = constants_of(OnnxModel(model))
    assert set(constants) == {"unused", "c", "d", "e"}
    assert constants["e"].tolist() == [1, 2]


def test_an_initialiser_that_callers_may_replace_is_no_constant() -> None:
    model = small_cnn()
    model.graph.input.append(helper.make_tensor_value_info("stem.bias", 1, [16]))
    assert "stem.bias" not in constants_of(OnnxModel(model))
    model.ir_version = 3
    assert "stem.bias" in constants_of(OnnxModel(model))


def test_bodies_read_what_is_outside_of_them() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["inner", "outer"], ["sum"])],
        "body",
        [],
        [helper.make_tensor_value_info("sum", 1, [1])],
        [numpy_helper.from_array(np.zeros(1, np.float32), "inner")],
    )
    node = helper.make_node("If", ["condition"], ["y"], then_branch=body, else_branch=body)
    assert read_names(node) == ["condition", "outer"]
