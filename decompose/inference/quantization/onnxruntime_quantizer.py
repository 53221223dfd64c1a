"""ONNX Runtime's static quantisation: QDQ nodes, weights per channel, activations per tensor."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import Tensor, nn

from decompose.inference.quantization.bias_correction import bias_corrected
from decompose.inference.quantization.graphs import (
    WEIGHTED,
    channel_means,
    nodes_of_layers,
    onnx_graph,
    run_session,
)
from decompose.utils.optional_dependencies import required

OPERATORS = (*WEIGHTED, "MaxPool", "Relu", "Clip", "Reshape", "Flatten", "Concat", "Add")
"""Quantised operators; pooling and the like keep the quantisation of their inputs."""


class OnnxRuntimeQuantizer:
    """Makes INT8 models of one float model; ranges are measured once.

    Args:
        model: ready to quantise; left as it was.
        images: batches to calibrate on.
        weight_bits: 7 or 8.
    """

    repairs: Sequence[str] = ("ranges", "biases")

    def __init__(self, model: nn.Module, images: Sequence[Tensor], weight_bits: int) -> None:
        required("onnxruntime", "ONNX Runtime", "onnx")
        self._tools = required("onnxruntime.quantization", "ONNX Runtime", "onnx")
        self._float = onnx_graph(model, images[0])
        self.layers: Mapping[str, Sequence[str]] = nodes_of_layers(self._float, model)
        self._images = images
        self._reduce_range = weight_bits == 7
        self._graph = self._float
        self._ranges = self._calibrated(averaged=False)

    def repair(self, name: str) -> Self:
        """The same with the means of the images' ranges as ranges, or with corrected biases."""
        other = copy.copy(self)
        if name == "ranges":
            other._ranges = self._calibrated(averaged=True)
            return other
        onnx = required("onnx", "ONNX", "onnx")
        nodes = [node for node in self._graph.graph.node if node.op_type in WEIGHTED]
        means = channel_means(self._graph, nodes, self._images)
        quantised = onnx.load_from_string(self.quantized()[".onnx"])
        other._graph = bias_corrected(self._graph, quantised, means)
        return other

    def quantized(self, in_float: Collection[str] = ()) -> Mapping[str, bytes]:
        """Files of the model in INT8, by suffix, some of its layers in float."""
        return self._made(None, [node for name in in_float for node in self.layers[name]])

    def quantized_alone(self, layer: str) -> Mapping[str, bytes]:
        """Files of the model with one layer in INT8."""
        return self._made(self.layers[layer], ())

    def outputs(
        self, files: Mapping[str, bytes], images: Sequence[Tensor]
    ) -> list[list[np.ndarray]]:
        """Floating outputs of a quantised model, batch by batch."""
        return run_session(files[".onnx"], images)

    def float_outputs(self, images: Sequence[Tensor]) -> list[list[np.ndarray]]:
        """Floating outputs of the float model, batch by batch."""
        return run_session(self._float.SerializeToString(), images)

    def _made(self, nodes: Sequence[str] | None, excluded: Sequence[str]) -> Mapping[str, bytes]:
        onnx = required("onnx", "ONNX", "onnx")
        graph = onnx.ModelProto()
        graph.CopyFrom(self._graph)
        with _quiet():
            quantizer = self._tools.QDQQuantizer(
                graph,
                True,
                self._reduce_range,
                self._tools.QuantType.QInt8,
                self._tools.QuantType.QUInt8,
                self._ranges,
                nodes,
                list(excluded),
                list(OPERATORS),
                {},
            )
            quantizer.quantize_model()
            # It adds nodes at the end; readers want them in order.
            quantizer.model.topological_sort()
        return {".onnx": quantizer.model.model.SerializeToString()}

    def _calibrated(self, *, averaged: bool) -> Any:
        onnx = required("onnx", "ONNX", "onnx")
        with tempfile.TemporaryDirectory() as folder, _quiet():
            path = Path(folder) / "model.onnx"
            onnx.save_model(self._graph, path)
            calibrator = self._tools.create_calibrator(
                path,
                list(OPERATORS),
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                extra_options={"moving_average": averaged, "averaging_constant": 0.05},
            )
            name = self._graph.graph.input[0].name
            calibrator.collect_data(_Reader(name, self._images))
            return calibrator.compute_data()


class _Reader:
    """Images one after another, as a calibrator takes them."""

    def __init__(self, name: str, images: Sequence[Tensor]) -> None:
        self._given: Iterator[dict[str, np.ndarray]] = iter(
            [{name: batch.numpy()} for batch in images]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._given, None)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self._given

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._given)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the quantiser's log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
