"""List the layers of an ONNX graph that are no modules, with the reasons, and count their MACs.

They stay as they are; their MACs belong to the model's all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from decompose.models.onnx.graph import attributes, bodies, constant_array, title_of
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

_PRODUCTS: Mapping[str, tuple[int, int]] = {
    "FusedGemm": (0, 1),
    "FusedMatMul": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
}
"""Operators that multiply matrices, and which of their inputs these are."""

_QUANTISED = ("ConvInteger", "QLinearConv", "MatMulInteger", "QLinearMatMul")


def why_left_alone(node: ir.Node, reason: str) -> dict[str, str]:
    """The layers that a node is or holds, at any depth, with the reason why they stay.

    Args:
        node: a node that is no module.
        reason: why it is none.
    """
    found: dict[str, str] = {}
    factor = _constant_factor(node)
    if node.op_type in WEIGHT_INDEX or factor is not None:
        reason = "its weight is the first factor" if factor == 0 else reason
        quantised = node.op_type in _QUANTISED
        found[title_of(node)] = "it is quantised already" if quantised else reason
    for body in bodies(node):
        for inner in body:
            found |= why_left_alone(inner, f"it is inside {title_of(node)}")
    return found


def count_other_macs(
    model: OnnxModel, layers: Collection[ir.Node], given: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """MACs of the layers that are no modules, by name.

    Of a node with several bodies those of the dearest count; of a loop's body, those of all its rounds
    where their number is known before it runs, else of one.

    Args:
        model: the model.
        layers: the nodes that are modules.
        given: shapes of all inputs.
    """
    import onnx_ir as ir
    from onnx import shape_inference

    inferred = shape_inference.infer_shapes(model.without_weights(given), data_prop=True)
    twins = zip(model.nodes, ir.from_proto(inferred).graph, strict=True)
    return _count((twin for node, twin in twins if node not in layers), model.weights)


def _count(nodes: Iterable[ir.Node], weights: Collection[str]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for node in nodes:
        if node.op_type in WEIGHT_INDEX or _constant_factor(node, weights) is not None:
            counted[title_of(node)] = _macs(node, weights)
        inside = [_count(body, weights) for body in bodies(node)]
        dearest = max(inside, key=lambda macs: sum(macs.values()), default={})
        rounds = _num_rounds(node) if dearest else 1
        counted |= {name: rounds * macs for name, macs in dearest.items()}
    return counted


def _macs(node: ir.Node, weights: Collection[str]) -> int:
    """MACs of a layer; 0 where its shapes are not known before it runs."""
    if node.op_type not in WEIGHT_INDEX:
        return _macs_of_product(node, _constant_factor(node, weights) or 0)
    # Each weight of a filter is used once for each output, of a transposed one for each input.
    ends = node.inputs if node.op_type == "ConvTranspose" else node.outputs
    end, weight = _dims(ends[0]), _dims(node.inputs[WEIGHT_INDEX[node.op_type]])
    return prod(end) * prod(weight[1:]) if end and weight else 0


def _macs_of_product(node: ir.Node, factor: int) -> int:
    """MACs of a product with a weight: for each output as many as a row of the first factor is long."""
    output, weight = _dims(node.outputs[0]), _dims(node.inputs[factor])
    if not output or not weight:
        return 0
    is_transposed = bool(attributes(node).get("transB" if factor else "transA", 0))
    axis = -1 if len(weight) == 1 or bool(factor) == is_transposed else -2
    return prod(output) * weight[axis]


def _constant_factor(node: ir.Node, weights: Collection[str] = ()) -> int | None:
    """Which input of a product is a weight; ``None`` where both are computed, or it is no product."""
    for place in reversed(_PRODUCTS.get(node.op_type, ())):
        value = node.inputs[place] if place < len(node.inputs) else None
        if value is not None and _is_constant(value, weights):
            return place
    return None


def _is_constant(value: ir.Value, weights: Collection[str]) -> bool:
    """Whether no input changes a value: one of the weights, an initialiser, or what is made of such."""
    waiting, seen = [value], {value}
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if node is None and not value.is_initializer() and value.name not in weights:
            return False
        read = [] if node is None else [each for each in node.inputs if each is not None]
        waiting += [each for each in read if each not in seen]
        seen.update(read)
    return True


def _num_rounds(node: ir.Node) -> int:
    """How often a node runs its body: 1 where that is not known before it runs."""
    if node.op_type == "Loop" and node.inputs and node.inputs[0] is not None:
        limit = _array(node.inputs[0])
        return 1 if limit is None or limit.size != 1 else max(0, int(limit.reshape(-1)[0]))
    if node.op_type == "Scan":
        options = attributes(node)
        scanned = len(node.inputs) - options.get("num_scan_inputs", 1)
        axis = (*options.get("scan_input_axes", ()), 0)[0]
        sizes = _dims(node.inputs[scanned])
        return sizes[axis] if sizes else 1
    return 1


def _array(value: ir.Value) -> np.ndarray | None:
    """The data of a small initialiser or constant."""
    node = value.producer()
    if node is not None and node.op_type == "Constant":
        return constant_array(node)
    return None if value.const_value is None else value.const_value.numpy()


def _dims(value: ir.Value | None) -> list[int]:
    """The sizes of a value, or none where one of them is open."""
    if value is None:
        return []
    shape = value.const_value.shape if value.const_value is not None else value.shape
    dims = [] if shape is None else [dim for dim in shape if isinstance(dim, int)]
    return dims if shape is not None and len(dims) == len(shape) else []
