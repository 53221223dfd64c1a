"""Find all holders of a stored weight: layers, other nodes, bodies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from decompose.models.onnx.execution_order import LayerNode
from decompose.models.onnx.graph import bodies, input_names, output_names, read_names
from decompose.models.onnx.layers import to_tensor
from decompose.models.onnx.model_file import FLOATING, OnnxModel, array_of

if TYPE_CHECKING:
    import onnx_ir as ir

_QUANTISED = (np.dtype(np.int8), np.dtype(np.uint8))


@dataclass(frozen=True, eq=False)
class Holder:
    """A parameter of a layer that is an initialiser, as it lies or transposed.

    Attributes:
        layer: the layer.
        parameter: its full name.
    """

    layer: LayerNode
    parameter: str


@dataclass(frozen=True, eq=False)
class StoredWeights:
    """The weights that a file holds.

    Attributes:
        holders: the layers' parameters, by initialiser.
        shared: the initialisers among these that other nodes read too.
        outside: the weights that no layer has.
    """

    holders: Mapping[str, Sequence[Holder]]
    shared: Sequence[str]
    outside: Sequence[nn.Parameter]


def find_stored(
    model: OnnxModel,
    layers: Sequence[LayerNode],
    constants: Mapping[str, np.ndarray],
    outputs: Collection[str],
) -> StoredWeights:
    """Find where the weights of a file are.

    Args:
        model: the model.
        layers: the nodes that are modules.
        constants: by name; one that is passed on has several names.
        outputs: the values that are asked for.
    """
    # By the array, since of one that is passed on each name is the same.
    first: dict[int, str] = {}
    for name, array in constants.items():
        first.setdefault(id(array), name)
    holders: dict[str, list[Holder]] = defaultdict(list)
    for layer in layers:
        for name, kind in zip(input_names(layer.node)[1:], ("weight", "bias"), strict=False):
            if name:
                holder = Holder(layer, f"{layer.module}.{kind}")
                holders[first[id(constants[name])]].append(holder)
    nodes = {layer.node for layer in layers}
    elsewhere = {*outputs}
    for node in model.nodes:
        if not constants.keys() >= {*output_names(node)}:
            elsewhere.update(input_names(node)[:1] if node in nodes else read_names(node))
    read = {first[id(constants[name])] for name in elsewhere if name in constants}
    graph = model.content.graph
    arrays = [constants[name] for name in graph.initializers if name not in holders]
    arrays += [array for node in graph for body in bodies(node) for array in _inside(body)]
    outside = [
        nn.Parameter(to_tensor(array), requires_grad=False) for array in arrays if _is_weight(array)
    ]
    return StoredWeights(dict(holders), [name for name in holders if name in read], outside)


def _is_weight(array: np.ndarray) -> bool:
    """Whether an initialiser is counted: floats, and kernels and matrices that are quantised already.

    Integers of one axis are zero points and indices.
    """
    return (array.ndim >= 1 and array.dtype in FLOATING.values()) or (
        array.ndim >= 2 and array.dtype in _QUANTISED
    )


def _inside(body: ir.Graph) -> Iterator[np.ndarray]:
    """The initialisers of a body, at any depth."""
    yield from map(array_of, body.initializers.values())
    for node in body:
        for inner in bodies(node):
            yield from _inside(inner)
