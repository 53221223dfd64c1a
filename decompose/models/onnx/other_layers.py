"""Convolutions of an ONNX graph that are no layers of its model: why not, and what they cost.

They stay as they are; their MACs belong to the model's all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from decompose.models.onnx.graph import bodies, title_of
from decompose.models.onnx.model_file import OnnxModel

if TYPE_CHECKING:
    import onnx_ir as ir

WEIGHT_INDEX: Mapping[str, int] = {
    "Conv": 1,
    "ConvInteger": 1,
    "ConvTranspose": 1,
    "FusedConv": 1,
    "NhwcConv": 1,
    "QLinearConv": 3,
}
"""Operators that convolve, and which of their inputs is the weight."""

_QUANTISED = ("ConvInteger", "QLinearConv")


def why_left_alone(node: ir.Node, reason: str) -> dict[str, str]:
    """The convolutions that a node is or holds, at any depth, with the reason why they stay.

    Args:
        node: no layer of the model.
        reason: why it is none.
    """
    found: dict[str, str] = {}
    if node.op_type in WEIGHT_INDEX:
        quantised = node.op_type in _QUANTISED
        found[title_of(node)] = "it is quantised already" if quantised else reason
    for body in bodies(node):
        for inner in body:
            found |= why_left_alone(inner, f"it is inside {title_of(node)}")
    return found


def count_other_macs(
    model: OnnxModel, layers: Collection[ir.Node], given: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """MACs of the convolutions that are no layers, by name; of a node with several bodies, of the dearest.

    Args:
        model: the model.
        layers: the nodes that are layers.
        given: shapes of all inputs.
    """
    import onnx_ir as ir
    from onnx import shape_inference

    inferred = shape_inference.infer_shapes(model.without_weights(given), data_prop=True)
    twins = zip(model.nodes, ir.from_proto(inferred).graph, strict=True)
    return _count(twin for node, twin in twins if node not in layers)


def _count(nodes: Iterable[ir.Node]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for node in nodes:
        if node.op_type in WEIGHT_INDEX:
            counted[title_of(node)] = _macs(node)
        inside = [_count(body) for body in bodies(node)]
        counted |= max(inside, key=lambda macs: sum(macs.values()), default={})
    return counted


def _macs(node: ir.Node) -> int:
    """MACs of a convolution; 0 where its shapes are not known before it runs."""
    # Each weight of a filter is used once for each output, of a transposed one for each input.
    ends = node.inputs if node.op_type == "ConvTranspose" else node.outputs
    end, weight = _dims(ends[0]), _dims(node.inputs[WEIGHT_INDEX[node.op_type]])
    return prod(end) * prod(weight[1:]) if end and weight else 0


def _dims(value: ir.Value | None) -> list[int]:
    """The sizes of a value, or none where one of them is open."""
    if value is None:
        return []
    shape = value.const_value.shape if value.const_value is not None else value.shape
    dims = [] if shape is None else [dim for dim in shape if isinstance(dim, int)]
    return dims if shape is not None and len(dims) == len(shape) else []
