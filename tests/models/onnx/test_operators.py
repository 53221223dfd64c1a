"""Torch functions give what ONNX Runtime gives, and leave alone what torch has not."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import helper

from decompose.models.onnx.operators import _MADE, _PLAIN, torch_function
from tests.models.onnx.cases import OPSET, make_model, run_onnx

NCHW = (2, 3, 8, 9)
VECTOR = np.array([0.5, 1.5, 2.0], np.float32)
MAP = VECTOR.reshape(3, 1, 1)

# Operator, what it reads besides x, attributes; then the opset.
CASES = [
    ("Add", [MAP], {}, OPSET),
    ("AveragePool", [], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 1, 1, 1]}, OPSET),
    ("AveragePool", [], {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}, OPSET),
    ("BatchNormalization", [VECTOR] * 4, {"epsilon": 0.1}, OPSET),
    ("Cast", [], {"to": 10}, OPSET),
    ("Clip", [np.float32(0), np.float32(0.5)], {}, OPSET),
    ("Clip", [np.float32(0)], {}, OPSET),
    ("Clip", [np.full(1, -0.5, np.float32), np.full(1, 0.5, np.float32)], {}, OPSET),
    ("Clip", [], {"min": -0.5}, 9),
    ("Concat", [np.ones(NCHW, np.float32)], {"axis": 1}, OPSET),
    ("Div", [MAP], {}, OPSET),
    ("Dropout", [], {}, OPSET),
    ("Elu", [], {"alpha": 0.7}, OPSET),
    ("Erf", [], {}, OPSET),
    ("Exp", [], {}, OPSET),
    ("Flatten", [], {"axis": -2}, OPSET),
    ("Gelu", [], {"approximate": "tanh"}, 20),
    ("GlobalAveragePool", [], {}, OPSET),
    ("GlobalMaxPool", [], {}, OPSET),
    ("HardSigmoid", [], {"alpha": 0.3}, OPSET),
    ("HardSwish", [], {}, OPSET),
    ("Identity", [], {}, OPSET),
    ("LayerNormalization", [np.ones((8, 9), np.float32)] * 2, {"axis": 2}, OPSET),
    ("LayerNormalization", [VECTOR[:1], np.ones((8, 1), np.float32)], {"axis": 2}, OPSET),
    ("LayerNormalization", [VECTOR.reshape(3, 1, 1)], {}, OPSET),
    ("LeakyRelu", [], {}, OPSET),
    ("MatMul", [np.ones((9, 4), np.float32)], {}, OPSET),
    ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 1, 0]}, OPSET),
    ("MaxPool", [], {"kernel_shape": [2, 2], "dilations": [2, 3]}, OPSET),
    ("Mul", [MAP], {}, OPSET),
    ("Neg", [], {}, OPSET),
    ("Pad", [np.array([0, 0, 1, 2, 0, 0, 3, 0]), np.float32(0.5)], {}, OPSET),
    ("Pad", [np.array([0, 0, 1, 2, 0, 0, 3, 0]), VECTOR[:1]], {}, OPSET),
    ("Pad", [], {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 2.0}, 9),
    ("Pow", [np.float32(2)], {}, OPSET),
    ("PRelu", [MAP], {}, OPSET),
    ("ReduceMean", [], {"axes": [-1, 1], "keepdims": 0}, OPSET),
    ("ReduceMean", [np.array([2, 3])], {}, 18),
    ("Relu", [], {}, OPSET),
    ("Reshape", [np.array([0, -1, 9])], {}, OPSET),
    ("Sigmoid", [], {}, OPSET),
    ("Softmax", [], {"axis": 1}, OPSET),
    ("Softmax", [], {"axis": 2}, 11),
    ("Softplus", [], {}, OPSET),
    ("Sqrt", [], {}, OPSET),
    ("Sub", [MAP], {}, OPSET),
    ("Tanh", [], {}, OPSET),
    ("Transpose", [], {"perm": [0, 2, 3, 1]}, OPSET),
    ("Transpose", [], {}, OPSET),
    ("Unsqueeze", [np.array([-1, 0])], {}, OPSET),
    ("Unsqueeze", [], {"axes": [0, 2]}, 11),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[3]}")
def test_as_onnxruntime(case: tuple) -> None:
    kind, others, attributes, opset = case
    names = [f"w{place}" for place in range(len(others))]
    node = helper.make_node(kind, ["x", *names], ["y"], **attributes)
    constants = dict(zip(names, map(np.asarray, others), strict=True))
    x = torch.randn(NCHW)
    # ONNX Runtime's square root of what is negative is not a number either.
    function = torch_function(ir.from_proto(node), opset, constants)
    assert function is not None
    given = function(x, *(torch.from_numpy(array) for array in constants.values()))
    rank = [None] * given.ndim
    model = make_model([node], constants, NCHW, rank, opset=opset, ir_version=7)
    model.graph.output[0].type.tensor_type.elem_type = 10 if kind == "Cast" else 1
    expected = torch.from_numpy(run_onnx(model, x)[0])
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_all_of_them_are_tried() -> None:
    assert {case[0] for case in CASES} | {"Squeeze"} == {*_PLAIN, *_MADE}


def test_squeeze() -> None:
    node = helper.make_node("Squeeze", ["x", "axes"], ["y"])
    function = torch_function(ir.from_proto(node), OPSET, {"axes": np.array([1, -1])})
    assert function is not None
    assert function(torch.zeros(2, 1, 3, 1), None).shape == (2, 3)


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes"),
    [
        ("MaxPool", ["x"], {"kernel_shape": [2, 2], "ceil_mode": 1}),
        ("MaxPool", ["x"], {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}),
        ("AveragePool", ["x"], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}),
        ("BatchNormalization", ["x", "a", "a", "a", "a"], {"training_mode": 1}),
        ("Clip", ["x", "computed"], {}),
        ("Pad", ["x", "computed"], {}),
        ("Pad", ["x", "computed"], {"mode": "reflect"}),
        ("Dropout", ["x", "", "training"], {}),
        ("Sin", ["x"], {}),
    ],
)
def test_the_rest_is_left_to_onnxruntime(kind: str, inputs: list[str], attributes: dict) -> None:
    node = helper.make_node(kind, inputs, ["y"], **attributes)
    assert torch_function(ir.from_proto(node), OPSET, {"a": VECTOR}) is None
    node = helper.make_node(kind, inputs, ["y"], domain="com.microsoft", **attributes)
    assert torch_function(ir.from_proto(node), OPSET, {}) is None
