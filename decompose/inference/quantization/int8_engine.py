"""Engines that run models in INT8, for latency budgets in INT8."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from decompose.inference.engines import Engine, OnnxEngine, PreparedModel, get_engine
from decompose.inference.quantization.onnxruntime_quantizer import OnnxRuntimeQuantizer
from decompose.inference.quantization.preparation import folded
from decompose.inference.quantization.saturation import saturates
from decompose.layers.modules import DECOMPOSABLE, DecomposedLayer
from decompose.utils.batches import Example
from decompose.utils.errors import DecomposeError
from decompose.utils.optional_dependencies import required


class Int8Engine(Engine):
    """An engine that quantises models, for times only: ranges come from one batch.

    Layers alone take and give bytes, as they do among other layers.

    Args:
        engine: that runs ONNX models.
    """

    # Grouped convolutions have slow kernels in INT8, or none.
    fewer_macs = 0.2

    def __init__(self, engine: OnnxEngine) -> None:
        self._engine = engine
        self._weight_bits = 7 if saturates() else 8
        # Of an instance, since they are those of the engine inside.
        self.name = f"{engine.name}-int8"  # type: ignore[misc]
        self.title = f"{engine.title}, INT8"  # type: ignore[misc]
        self.forms = engine.forms  # type: ignore[misc]

    def version(self) -> str:
        """The version of the engine inside."""
        return self._engine.version()

    def prepare(self, model: nn.Module, x: Example, num_threads: int) -> PreparedModel:
        """Quantise the model on the batch, and prepare it in the inner engine."""
        if not isinstance(x, Tensor):
            raise DecomposeError("INT8 is of models of one input tensor only")
        is_layer = isinstance(model, (*DECOMPOSABLE, DecomposedLayer))
        ready = model if is_layer else folded(model, x)
        quantizer = OnnxRuntimeQuantizer(ready, [x.cpu()], self._weight_bits)
        content = quantizer.quantized()[".onnx"]
        if is_layer:
            content, x = _among_bytes(content, x)
        return self._engine.prepare_onnx(content, x, num_threads)


def int8_engine(name: str) -> Engine:
    """The engine of a name, running in INT8.

    Raises:
        DecomposeError: it runs no ONNX models, or is not installed.
    """
    engine = get_engine(name)
    if not isinstance(engine, OnnxEngine):
        raise DecomposeError(f"INT8 times are those of onnxruntime or openvino, not of {name}")
    return Int8Engine(engine)


def _among_bytes(content: bytes, x: Tensor) -> tuple[bytes, Tensor]:
    """A layer's model without the conversion from floats before it and to floats after it."""
    onnx = required("onnx", "ONNX", "onnx")
    model = onnx.load_from_string(content)
    graph = model.graph
    given, made = graph.input[0].name, graph.output[0].name
    # What was exported may be written under another name at last.
    passed_on = [n for n in graph.node if n.op_type == "Identity" and n.output[0] == made]
    made = passed_on[0].input[0] if passed_on else made
    first = [n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == given]
    last = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.output[0] == made]
    if len(first) != 1 or len(last) != 1 or sum(given in n.input for n in graph.node) != 1:
        return content, x
    _take_over(graph.input[0], first[0].output[0], onnx.TensorProto.UINT8)
    _take_over(graph.output[0], last[0].input[0], onnx.TensorProto.UINT8)
    for node in (*first, *last, *passed_on):
        graph.node.remove(node)
    return model.SerializeToString(), torch.full(x.shape, 128, dtype=torch.uint8)


def _take_over(value: Any, name: str, kind: int) -> None:
    value.name = name
    value.type.tensor_type.elem_type = kind
