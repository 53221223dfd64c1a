"""An ONNX network back to an ONNX model: the nodes of its rewritten layers replaced, all else as it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from decompose.algebra import Conv
from decompose.algebra.padding import with_input_padding
from decompose.layers.modules import DECOMPOSABLE, to_conv, to_expression
from decompose.models.onnx.graph import read_names
from decompose.models.onnx.layers import Borders, Pairs
from decompose.models.onnx.model_file import OnnxModel, check_model, subgraphs
from decompose.models.onnx.network import OnnxNetwork
from decompose.models.onnx.nodes import Nodes
from decompose.models.onnx.shapes import infer_values
from decompose.models.onnx.writing import to_initializer, write_model

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_END = (1 << 63) - 1
_SLICE_WITH_INPUTS = 10
"""The opset from which a slice's bounds are inputs."""

_CLOSED_IR = 4
"""The version from which initialisers need not be listed as inputs."""


def write_network(network: OnnxNetwork, path: str | Path) -> None:
    """Write what has become of an ONNX network to a file of its own.

    Raises:
        DecomposeError: the file cannot be written.
    """
    write_model(rewritten(network), path)


def rewritten(network: OnnxNetwork) -> OnnxModel:
    """The model of an ONNX network as its layers are now.

    Inputs, outputs, versions and metadata are those of the original, and so are the nodes and weights of
    layers that nothing has changed.
    """
    original = network.model
    proto = type(original.proto)()
    proto.CopyFrom(original.proto)
    graph = proto.graph
    names = _Names(graph)
    made = Nodes(names.fresh)
    replacements = {
        place: _replacement(graph.node[place], module, borders, made, names, original.opset)
        for place, module, borders in _changed(network)
    }
    nodes: list[NodeProto] = []
    dropped: list[str] = []
    for place, node in enumerate(original.proto.graph.node):
        nodes += replacements.get(place, [node])
        dropped += node.input[1:] if place in replacements else []
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unread(graph, dropped)
    large = _add_weights(proto, made)
    kept = {tensor.name for tensor in graph.initializer}
    arrays = {name: array for name, array in original.arrays.items() if name in kept} | large
    model = OnnxModel(proto, arrays, original.is_external)
    _tell_shapes(model, {node.output[0] for node in made.nodes})
    check_model(model)
    return model


class _Names:
    """Names that nothing in a graph has yet.

    Attributes:
        layer: what the next ones begin with.
    """

    def __init__(self, graph: GraphProto) -> None:
        self.layer = ""
        self._taken = set(_names_in(graph))

    def fresh(self, wish: str) -> str:
        """A new name that tells the layer, and what it is wished for."""
        name = next(name for n in count() if (name := f"{self.layer}/{wish}{n}") not in self._taken)
        self._taken.add(name)
        return name


def _names_in(graph: GraphProto) -> Iterator[str]:
    for values in (graph.input, graph.output, graph.value_info, graph.initializer):
        yield from (value.name for value in values)
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
        for body in subgraphs(node):
            yield from _names_in(body)


def _changed(network: OnnxNetwork) -> Iterator[tuple[int, nn.Module, Borders]]:
    """The places of the nodes whose layers are not what they were, and what these are now."""
    for node in network.layer_nodes:
        module = network.get_submodule(node.module)
        if not isinstance(module, DECOMPOSABLE) or not _alike(to_conv(module), node.layer.conv):
            yield node.place, module, node.layer.borders


def _alike(now: Conv, then: Conv) -> bool:
    if now.bias is None or then.bias is None:
        return now.bias is then.bias and torch.equal(now.weight, then.weight)
    return torch.equal(now.bias, then.bias) and torch.equal(now.weight, then.weight)


def _replacement(
    node: NodeProto,
    module: nn.Module,
    borders: Borders,
    made: Nodes,
    names: _Names,
    opset: int,
) -> list[NodeProto]:
    """The nodes that compute what a layer has become; the last one takes over the names."""
    names.layer = node.name or node.output[0]
    start = len(made.nodes)
    expression = to_expression(module)
    if borders.padding:
        expression = with_input_padding(expression, borders.padding)
    output = made.add(expression, node.input[0], borders.automatic)
    if borders.cropping:
        _crop(made, output, borders.cropping, opset)
    new = made.nodes[start:]
    for other in new[:-1]:
        other.name = names.fresh(other.op_type)
    last = new[-1]
    last.output[0], last.name, last.doc_string = node.output[0], node.name, node.doc_string
    last.metadata_props.extend(node.metadata_props)
    return new


def _crop(made: Nodes, y: str, cropping: Pairs, opset: int) -> None:
    bounds = {
        "starts": [before for before, _ in cropping],
        "ends": [-after or _END for _, after in cropping],
        "axes": list(range(2, 2 + len(cropping))),
    }
    if opset < _SLICE_WITH_INPUTS:
        made.node("Slice", y, **bounds)
    else:
        made.node("Slice", y, *map(made.integers, bounds.values()))


def _drop_unread(graph: GraphProto, names: Collection[str]) -> None:
    """Take out those of these constants that nothing reads any more."""
    num_readers = Counter(name for node in graph.node for name in read_names(node))
    num_readers.update(value.name for value in graph.output)
    waiting = [*dict.fromkeys(names)]
    while waiting:
        name = waiting.pop()
        if not name or num_readers[name]:
            continue
        for node in list(graph.node):
            if name in node.output:
                graph.node.remove(node)
                num_readers.subtract(read_names(node))
                waiting += node.input
        listings: tuple[Any, ...] = (graph.initializer, graph.input, graph.value_info)
        for values in listings:
            for value in [value for value in values if value.name == name]:
                values.remove(value)


def _add_weights(proto: ModelProto, made: Nodes) -> dict[str, np.ndarray]:
    """Add the weights of new nodes, and give the large ones, whose data lies beside the graph."""
    from onnx import helper

    large: dict[str, np.ndarray] = {}
    for name, array in made.weights.items():
        tensor, is_large = to_initializer(name, array)
        proto.graph.initializer.append(tensor)
        if is_large:
            large[name] = array
        if proto.ir_version < _CLOSED_IR:
            value = helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
            proto.graph.input.append(value)
    return large


def _tell_shapes(model: OnnxModel, names: Collection[str]) -> None:
    """Tell the shapes of new values, as the graph's other ones may."""
    graph = model.proto.graph
    told = {value.name for value in (*graph.value_info, *graph.output)}
    graph.value_info.extend(
        value
        for value in infer_values(model.without_weights())
        if value.name in names and value.name not in told
    )


def self_contained(network: OnnxNetwork) -> OnnxModel:
    """The model that takes just what the network takes: channels first, other inputs fixed."""
    from onnx import helper, numpy_helper

    model, signature = rewritten(network), network.signature
    graph = model.proto.graph
    given = next(value for value in graph.input if value.name == signature.name)
    for value in [value for value in graph.input if value.name in network.fixed]:
        graph.input.remove(value)
        array = network.fixed[value.name].numpy()
        graph.initializer.append(numpy_helper.from_array(array, value.name))
    if signature.is_channels_last:
        names = _Names(graph)
        names.layer = signature.name
        outside = names.fresh("channels_first")
        dims = given.type.tensor_type.shape.dim
        ordered = [dims[0], dims[-1], *dims[1:-1]]
        shape = type(given.type.tensor_type.shape)(dim=ordered)
        given.type.tensor_type.shape.CopyFrom(shape)
        given.name = outside
        graph.node.insert(
            0, helper.make_node("Transpose", [outside], [signature.name], perm=[0, 2, 3, 1])
        )
    return model
