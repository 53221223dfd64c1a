"""What nodes of an ONNX graph read and hold, and what is constant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from decompose.models.onnx.model_file import OnnxModel, subgraphs
from decompose.utils.errors import DecomposeError

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node, by name; texts as such."""
    from onnx import helper

    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def constants_of(model: OnnxModel) -> dict[str, np.ndarray]:
    """Values that no input changes: initialisers, constants, and what merely passes them on.

    An initialiser that is listed as an input too, as many exporters do with all of them, is its default.

    Raises:
        DecomposeError: one is damaged.
    """
    from onnx import numpy_helper

    graph = model.proto.graph
    values: dict[str, np.ndarray] = {}
    try:
        for tensor in graph.initializer:
            large = model.arrays.get(tensor.name)
            values[tensor.name] = numpy_helper.to_array(tensor) if large is None else large
        for node in graph.node:
            if node.op_type == "Constant" and (value := _constant(node)) is not None:
                values[node.output[0]] = value
            elif node.op_type == "Identity" and node.input[0] in values:
                values[node.output[0]] = values[node.input[0]]
    except (ValueError, TypeError, LookupError) as error:
        raise DecomposeError(f"a constant is damaged: {error}") from None
    return values


def read_names(node: NodeProto) -> list[str]:
    """The values that a node reads, those that its bodies take from outside included."""
    names = [name for name in node.input if name]
    for body in subgraphs(node):
        names += _free_names(body)
    return list(dict.fromkeys(names))


def _free_names(graph: GraphProto) -> list[str]:
    own = {value.name for value in graph.input} | {t.name for t in graph.initializer}
    free: list[str] = []
    for node in graph.node:
        free += [name for name in read_names(node) if name not in own]
        own.update(node.output)
    return free + [value.name for value in graph.output if value.name not in own]


def _constant(node: NodeProto) -> np.ndarray | None:
    from onnx import numpy_helper

    attribute = node.attribute[0]
    if attribute.name == "value":
        return numpy_helper.to_array(attribute.t)
    if attribute.name in ("value_float", "value_floats"):
        return np.array(attribute.f if attribute.name == "value_float" else attribute.floats, "f4")
    if attribute.name in ("value_int", "value_ints"):
        return np.array(attribute.i if attribute.name == "value_int" else attribute.ints, "i8")
    return None
