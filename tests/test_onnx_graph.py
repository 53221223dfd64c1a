"""Every convolution that ONNX has is read as a layer, or says why it is none."""

from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper

from decompose.onnx_files import OnnxModel
from decompose.onnx_graph import Unsuitable, constants_of, read_layer, read_names
from tests.onnx_cases import make_model, small_cnn

WEIGHT = np.zeros((4, 2, 3, 3), np.float32)


def read(kind: str = "Conv", sizes: tuple[int, int] | None = None, **attributes: Any):
    node = helper.make_node(kind, ["x", "w"], ["y"], **attributes)
    return read_layer(node, {"w": WEIGHT}, sizes)


def test_what_torch_pads_is_the_layers_and_the_rest_is_beside_it() -> None:
    layer = read(pads=[1, 0, 2, 3])
    assert layer.conv.geometry.padding == ((1, 1), (0, 0))
    assert layer.borders.padding == [(0, 1), (0, 3)]
    x = torch.ones(1, 2, 5, 5)
    assert layer.borders.padded(x).shape == (1, 2, 6, 8)
    assert not read(pads=[1, 2, 1, 2]).borders.padding


@pytest.mark.parametrize(("automatic", "first"), [("SAME_UPPER", 1.0), ("SAME_LOWER", 0.0)])
def test_automatic_padding_follows_the_inputs_size(automatic: str, first: float) -> None:
    borders = read(auto_pad=automatic, strides=[2, 2]).borders
    padded = borders.padded(torch.ones(1, 2, 8, 9))
    assert padded.shape == (1, 2, 9, 11)
    assert padded[0, 0, 0, 5] == first


def test_what_torch_cannot_cut_off_is_cut_off_behind() -> None:
    layer = read("ConvTranspose", strides=[2, 2], pads=[0, 1, 1, 0])
    # Along the second axis it is the same to cut off one at both ends and to ask for one more.
    assert layer.conv.geometry.padding == ((0, 0), (1, 1))
    assert layer.conv.geometry.output_padding == (0, 1)
    assert layer.borders.cropping == [(0, 1), (0, 0)]


@pytest.mark.parametrize(
    ("kind", "attributes", "reason"),
    [
        ("Conv", {"strides": [0, 1]}, "out of all bounds"),
        ("Conv", {"pads": [-1, 0, 0, 0]}, "its pads"),
        ("Conv", {"kernel_shape": [2, 2]}, "another shape"),
        ("Conv", {"group": 3}, "do not fall into 3 groups"),
        ("Conv", {"strides": [1]}, "its attributes do not fit"),
        ("Conv", {"auto_pad": "OFTEN"}, "an auto_pad of OFTEN"),
        ("ConvTranspose", {"output_padding": [1, 0]}, "padded by its stride"),
        ("ConvTranspose", {"output_shape": [9, 9]}, "depends on its input's size"),
        ("ConvTranspose", {"strides": [5, 5], "auto_pad": "SAME_UPPER"}, "longer than its kernel"),
        ("Relu", {}, "no convolution"),
    ],
)
def test_others_say_why(kind: str, attributes: dict, reason: str) -> None:
    with pytest.raises(Unsuitable, match=reason):
        read(kind, **attributes)


def test_weights_must_be_constant_and_floating() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    with pytest.raises(Unsuitable, match="its weight is computed"):
        read_layer(node, {})
    with pytest.raises(Unsuitable, match="its weight is int8"):
        read_layer(node, {"w": WEIGHT.astype(np.int8)})


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
