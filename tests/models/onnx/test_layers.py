"""Every convolution that ONNX has is read as a layer, or says why it is none."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import helper

from decompose.models.onnx.layers import Layer, Unsuitable, read_layer

WEIGHT = np.zeros((4, 2, 3, 3), np.float32)


def read(kind: str = "Conv", sizes: tuple[int, int] | None = None, **attributes: Any) -> Layer:
    node = ir.from_proto(helper.make_node(kind, ["x", "w"], ["y"], **attributes))
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
    node = ir.from_proto(helper.make_node("Conv", ["x", "w"], ["y"]))
    with pytest.raises(Unsuitable, match="its weight is computed"):
        read_layer(node, {})
    with pytest.raises(Unsuitable, match="its weight is int8"):
        read_layer(node, {"w": WEIGHT.astype(np.int8)})
