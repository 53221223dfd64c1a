"""OpenVINO's quantisation, by NNCF: its own calibration and bias correction."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import Tensor, nn

from decompose.inference.quantization.graphs import nodes_of_layers, onnx_graph
from decompose.models.openvino_core import openvino_core
from decompose.utils.errors import DecomposeError
from decompose.utils.optional_dependencies import required


class OpenVinoQuantizer:
    """Makes INT8 models of one float model.

    Args:
        model: ready to quantise; left as it was.
        images: batches to calibrate on.
        weight_bits: 7 or 8.

    Raises:
        DecomposeError: OpenVINO or NNCF is not installed, or this processor has no INT8 in OpenVINO.
    """

    repairs: Sequence[str] = ()

    def __init__(self, model: nn.Module, images: Sequence[Tensor], weight_bits: int) -> None:
        self._ov = required("openvino", "OpenVINO", "openvino")
        with _quiet():
            self._nncf = required("nncf", "NNCF", "openvino-int8")
        self._core = openvino_core()
        if "INT8" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise DecomposeError(
                "OpenVINO runs no INT8 on this processor; quantise for onnxruntime instead"
            )
        proto = onnx_graph(model, images[0])
        self.layers: Mapping[str, Sequence[str]] = nodes_of_layers(proto, model)
        self._outputs_of = {node.name: node.output[0] for node in proto.graph.node}
        self._content = proto.SerializeToString()
        self._images = images
        self._weight_bits = weight_bits

    def repair(self, name: str) -> Self:
        """NNCF corrects biases itself; there is nothing else to repair."""
        raise ValueError(name)

    def quantized(self, in_float: Collection[str] = ()) -> Mapping[str, bytes]:
        """Files of the model in INT8, by suffix, some of its layers in float."""
        nncf = self._nncf
        from nncf.quantization.advanced_parameters import (  # heavy, and not always there
            AdvancedQuantizationParameters,
            OverflowFix,
        )

        fix = OverflowFix.ENABLE if self._weight_bits == 7 else OverflowFix.DISABLE
        kept = [self._outputs_of[node] for layer in in_float for node in self.layers[layer]]
        model = self._core.read_model(self._content)
        names = {
            output: operation.get_friendly_name()
            for operation in model.get_ops()
            for port in operation.outputs()
            for output in port.get_names()
        }
        ignored = nncf.IgnoredScope(names=sorted({names[output] for output in kept}))
        data = nncf.Dataset([batch.numpy() for batch in self._images])
        with _quiet():
            made = nncf.quantize(
                model,
                data,
                subset_size=len(self._images),
                ignored_scope=ignored if kept else None,
                advanced_parameters=AdvancedQuantizationParameters(overflow_fix=fix),
            )
        return self._files(made)

    def quantized_alone(self, layer: str) -> Mapping[str, bytes]:
        """Files of the model with one layer in INT8."""
        return self.quantized([name for name in self.layers if name != layer])

    def outputs(
        self, files: Mapping[str, bytes], images: Sequence[Tensor]
    ) -> list[list[np.ndarray]]:
        """Floating outputs of a quantised model, batch by batch."""
        return self._run(self._core.read_model(files[".xml"], files[".bin"]), images)

    def float_outputs(self, images: Sequence[Tensor]) -> list[list[np.ndarray]]:
        """Floating outputs of the float model, batch by batch."""
        return self._run(self._core.read_model(self._content), images)

    def _run(self, model: Any, images: Sequence[Tensor]) -> list[list[np.ndarray]]:
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = self._core.compile_model(model, "CPU", settings)
        return [
            [np.array(y) for y in compiled([batch.numpy()]).values() if y.dtype.kind == "f"]
            for batch in images
        ]

    def _files(self, model: Any) -> dict[str, bytes]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.xml"
            self._ov.save_model(model, path, compress_to_fp16=False)
            return {path.suffix: path.read_bytes() for path in sorted(Path(folder).iterdir())}


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress NNCF's log and progress bars."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
