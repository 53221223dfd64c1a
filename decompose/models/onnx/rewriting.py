"""Convert an ONNX module back to an ONNX model: nodes of rewritten layers are replaced, the rest stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from decompose.algebra.padding import with_input_padding
from decompose.layers.modules import to_expression
from decompose.models.onnx.expression_nodes import Nodes
from decompose.models.onnx.graph import title_of
from decompose.models.onnx.layers import Borders, Pairs
from decompose.models.onnx.model_file import OnnxModel, check_model, set_type
from decompose.models.onnx.module import OnnxModule
from decompose.models.onnx.shapes import infer_values
from decompose.models.onnx.writing import write_model

if TYPE_CHECKING:
    import onnx_ir as ir

_END = (1 << 63) - 1
_SLICE_WITH_INPUTS = 10
"""The opset from which a slice's bounds are inputs."""

_CLOSED_IR = 4
"""The version from which initialisers need not be listed as inputs."""


def write_rewritten(module: OnnxModule, path: str | Path) -> None:
    """Write an ONNX module to a file.

    Raises:
        DecomposeError: the file cannot be written.
    """
    write_model(rewritten(module), path)


def rewritten(source: OnnxModule) -> OnnxModel:
    """The ONNX model of a module with its present layers.

    Inputs, outputs, versions and metadata are those of the original, and so are the nodes and weights of
    layers that nothing has changed.
    """
    import onnx_ir as ir

    original = source.model
    content = original.content.clone()
    graph = content.graph
    twins = dict(zip(original.nodes, tuple(graph), strict=True))
    names = _Names(graph)
    made = Nodes(names.fresh)
    dropped: list[ir.Value | None] = []
    for node, module, borders in _changed(source):
        old = twins[node]
        dropped += old.inputs[1:]
        new = _replacement(old, module, borders, made, names, original.opset)
        ir.convenience.replace_nodes_and_values(
            graph, old, [old], new, old.outputs[:1], new[-1].outputs
        )
    _drop_unread(graph, dropped)
    _add_weights(content, made)
    model = OnnxModel(content, original.is_external)
    _add_shapes(model, made)
    check_model(model)
    return model


class _Names:
    """Makes names that are new to a graph.

    Attributes:
        layer: what the next ones begin with.
    """

    def __init__(self, graph: ir.Graph) -> None:
        import onnx_ir as ir

        self.layer = ""
        self._taken = {*ir.convenience.create_value_mapping(graph)}
        self._taken |= {node.name or "" for node in graph.all_nodes()}

    def fresh(self, kind: str) -> str:
        """A new name that begins with the layer's."""
        name = next(name for n in count() if (name := f"{self.layer}/{kind}{n}") not in self._taken)
        self._taken.add(name)
        return name


def _changed(source: OnnxModule) -> Iterator[tuple[ir.Node, nn.Module, Borders]]:
    """The nodes whose layers were changed, with their present modules."""
    for node in source.layer_nodes:
        module = source.get_submodule(node.module)
        if not node.is_unchanged(module):
            yield node.node, module, node.layer.borders


def _replacement(
    node: ir.Node,
    module: nn.Module,
    borders: Borders,
    made: Nodes,
    names: _Names,
    opset: int,
) -> list[ir.Node]:
    """The nodes that compute a rewritten layer; the last one takes over the name."""
    names.layer = title_of(node)
    start = len(made.nodes)
    expression = to_expression(module)
    if borders.padding:
        expression = with_input_padding(expression, borders.padding)
    x = node.inputs[0]
    assert x is not None
    output = made.add(expression, x, borders.automatic)
    if borders.cropping:
        _crop(made, output, borders.cropping, opset)
    new = made.nodes[start:]
    for other in new[:-1]:
        other.name = names.fresh(other.op_type)
    last = new[-1]
    last.name, last.doc_string = node.name, node.doc_string
    last.metadata_props.update(node.metadata_props)
    return new


def _crop(made: Nodes, y: ir.Value, cropping: Pairs, opset: int) -> None:
    bounds = {
        "starts": [before for before, _ in cropping],
        "ends": [-after or _END for _, after in cropping],
        "axes": list(range(2, 2 + len(cropping))),
    }
    if opset < _SLICE_WITH_INPUTS:
        made.node("Slice", y, **bounds)
    else:
        made.node("Slice", y, *map(made.integers, bounds.values()))


def _drop_unread(graph: ir.Graph, values: Sequence[ir.Value | None]) -> None:
    """Remove the constants that nothing reads any more."""
    waiting = [*dict.fromkeys(values)]
    while waiting:
        value = waiting.pop()
        if value is None or value.uses() or value.is_graph_output():
            continue
        node = value.producer()
        if node is not None and node.graph is graph:
            waiting += node.inputs
            graph.remove(node, safe=True)
        elif value.is_initializer():
            graph.initializers.pop(str(value.name))
            if value.is_graph_input():
                graph.inputs.remove(value)


def _add_weights(content: ir.Model, made: Nodes) -> None:
    """Add the weights of new nodes, in old versions as inputs too."""
    for value in made.weights.values():
        content.graph.register_initializer(value)
        if content.ir_version < _CLOSED_IR:
            set_type(value)
            content.graph.inputs.append(value)


def _add_shapes(model: OnnxModel, made: Nodes) -> None:
    """Add the shapes of new values, as the graph's other ones may have theirs."""
    found = {value.name: value for value in infer_values(model.without_weights())}
    for node in made.nodes:
        for value in node.outputs:
            if value.name in found and value.shape is None:
                value.type, value.shape = found[value.name].type, found[value.name].shape


def self_contained(module: OnnxModule) -> OnnxModel:
    """The ONNX model with the module's own inputs: channels first, other inputs fixed."""
    import onnx_ir as ir

    model, signature = rewritten(module), module.signature
    graph = model.content.graph
    for value in [value for value in graph.inputs if value.name in module.fixed]:
        graph.inputs.remove(value)
        array = module.fixed[str(value.name)].numpy()
        value.const_value = ir.Tensor(array, name=value.name)
        value.type = value.shape = None
        graph.register_initializer(value)
    if signature.is_channels_last:
        given = next(value for value in graph.inputs if value.name == signature.name)
        assert given.shape is not None
        dims = given.shape.dims
        names = _Names(graph)
        names.layer = signature.name
        outside = ir.Value(
            name=names.fresh("channels_first"),
            type=given.type,
            shape=ir.Shape([dims[0], dims[-1], *dims[1:-1]]),
        )
        graph.inputs[graph.inputs.index(given)] = outside
        inside = ir.Value(name=signature.name, type=given.type, shape=given.shape)
        given.replace_all_uses_with(inside, replace_graph_outputs=True)
        order = ir.node("Transpose", [outside], {"perm": [0, 2, 3, 1]}, outputs=[inside])
        graph.insert_before(graph[0], order)
    return OnnxModel(model.content, model.is_external)
