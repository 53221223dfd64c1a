"""Inspect an ONNX graph: inputs, attributes and bodies of nodes, and constants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from decompose.models.onnx.model_file import OnnxModel, array_of
from decompose.utils.errors import DecomposeError

if TYPE_CHECKING:
    import onnx_ir as ir

_NUMBERS = {"value_float": "f4", "value_floats": "f4", "value_int": "i8", "value_ints": "i8"}


def attributes(node: ir.Node) -> dict[str, Any]:
    """The attributes of a node, by name."""
    return {name: a.value for name, a in node.attributes.items() if not a.is_ref()}


def input_names(node: ir.Node) -> list[str]:
    """The names of a node's inputs; empty where one is left out."""
    return ["" if value is None else value.name or "" for value in node.inputs]


def output_names(node: ir.Node) -> list[str]:
    """The names of a node's outputs; empty where one is left out."""
    return [value.name or "" for value in node.outputs]


def title_of(node: ir.Node) -> str:
    """A node's title in messages: its name, or else its output's or operator's."""
    return node.name or next(filter(None, output_names(node)), node.op_type)


def constants_of(model: OnnxModel) -> dict[str, np.ndarray]:
    """Values that no input changes: initialisers, constants, and identities of them.

    An initialiser that is listed as an input too, as many exporters do with all of them, is its default.

    Raises:
        DecomposeError: one is damaged.
    """
    initializers = model.content.graph.initializers
    values = {name: array_of(value) for name, value in initializers.items()}
    try:
        for node in model.nodes:
            if node.op_type == "Constant" and (value := constant_array(node)) is not None:
                values[output_names(node)[0]] = value
            elif node.op_type == "Identity" and input_names(node)[0] in values:
                values[output_names(node)[0]] = values[input_names(node)[0]]
    except (ValueError, TypeError, LookupError) as error:
        raise DecomposeError(f"a constant is damaged: {error}") from None
    return values


def constant_array(node: ir.Node) -> np.ndarray | None:
    """The array of a ``Constant`` node; ``None`` where it is no array of numbers."""
    name, value = next(iter(attributes(node).items()))
    if name == "value":
        return value.numpy()
    return np.array(value, _NUMBERS[name]) if name in _NUMBERS else None


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs that a node holds, such as the branches of an ``If``."""
    import onnx_ir as ir

    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def read_names(node: ir.Node) -> list[str]:
    """The values that a node reads, those that its bodies take from outside included."""
    names = [name for name in input_names(node) if name]
    for body in bodies(node):
        names += _free_names(body)
    return list(dict.fromkeys(names))


def _free_names(graph: ir.Graph) -> list[str]:
    own = {str(value.name) for value in graph.inputs} | {*graph.initializers}
    free: list[str] = []
    for node in graph:
        free += [name for name in read_names(node) if name not in own]
        own.update(output_names(node))
    return free + [str(value.name) for value in graph.outputs if value.name not in own]
