"""Find the nodes of an ONNX graph that compute each layer, and the means of their inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from decompose.layers.discovery import find_layers
from decompose.models.export import to_onnx_bytes
from decompose.models.onnx.module import OnnxModule
from decompose.utils.optional_dependencies import required

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators with weights, which are quantised."""

Arrays = Sequence[np.ndarray]


def onnx_graph(model: nn.Module, example: Tensor) -> Any:
    """A model as an ONNX ``ModelProto`` whose nodes all have names of their own.

    Raises:
        DecomposeError: it cannot be exported.
    """
    onnx = required("onnx", "ONNX", "onnx")
    proto = onnx.load_from_string(to_onnx_bytes(model, example))
    taken = set()
    for index, node in enumerate(proto.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)
    return onnx.shape_inference.infer_shapes(proto)


def nodes_of_layers(proto: Any, model: nn.Module) -> dict[str, list[str]]:
    """Names of the nodes that compute each layer, in the graph's order.

    Args:
        proto: what ``onnx_graph`` made of the model.
        model: whose layers give the names. Of what came as an ONNX model, each node is a layer.
    """
    weights = {tensor.name for tensor in proto.graph.initializer}
    names = [] if isinstance(model, OnnxModule) else list(find_layers(model))
    found: dict[str, list[str]] = {}
    for node in proto.graph.node:
        if node.op_type in WEIGHTED and node.input[1] in weights:
            found.setdefault(_layer_of(node.input[1], names) or node.name, []).append(node.name)
    return found


def run_session(content: bytes, images: Iterable[Tensor]) -> list[list[np.ndarray]]:
    """Floating outputs of an ONNX model in ONNX Runtime, batch by batch."""
    session = session_of(content)
    name = session.get_inputs()[0].name
    return [
        [y for y in session.run(None, {name: batch.numpy()}) if y.dtype.kind == "f"]
        for batch in images
    ]


def session_of(content: bytes) -> Any:
    """An ONNX model ready to run on the CPU."""
    ort = required("onnxruntime", "ONNX Runtime", "onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def channel_means(proto: Any, nodes: Sequence[Any], images: Iterable[Tensor]) -> dict[str, Any]:
    """Means of the channels that nodes read, over images and positions.

    Args:
        proto: the model; left as it was.
        nodes: of ``WEIGHTED`` operators.
        images: batches.

    Returns:
        ``(I,)`` by the name of what a node reads.
    """
    onnx = required("onnx", "ONNX", "onnx")
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    graph = watched.graph
    del graph.output[:]
    opset = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    known = {value.name: value for value in (*proto.graph.value_info, *proto.graph.input)}
    read = {node.input[0]: node.op_type for node in nodes if node.input[0] in known}
    for name, operator in read.items():
        rank = len(known[name].type.tensor_type.shape.dim)
        channel = 1 if operator.startswith("Conv") else rank - 1
        axes = [axis for axis in range(rank) if axis != channel]
        mean = f"{name}/mean"
        inputs, attributes = [name], {"axes": axes}
        if opset >= 18:
            graph.initializer.append(onnx.numpy_helper.from_array(np.array(axes), f"{mean}/axes"))
            inputs, attributes = [name, f"{mean}/axes"], {}
        graph.node.append(
            onnx.helper.make_node("ReduceMean", inputs, [mean], keepdims=0, **attributes)
        )
        graph.output.append(onnx.helper.make_tensor_value_info(mean, onnx.TensorProto.FLOAT, None))
    session = session_of(watched.SerializeToString())
    given = session.get_inputs()[0].name
    runs = [session.run(None, {given: batch.numpy()}) for batch in images]
    return {name: np.mean(means, axis=0) for name, *means in zip(read, *runs, strict=True)}


def arrays_of(proto: Any) -> Mapping[str, np.ndarray]:
    """The constants of a graph by name."""
    onnx = required("onnx", "ONNX", "onnx")
    return {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}


def _layer_of(weight: str, names: Sequence[str]) -> str | None:
    """The layer that a parameter belongs to."""
    inside = [name for name in names if weight.startswith(f"{name}.")]
    return max(inside, key=len, default=None)
