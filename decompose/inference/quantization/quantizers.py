"""The interface of the engines' quantisers, and the choice of one by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, Self

import numpy as np
from torch import Tensor

from decompose.inference.quantization.onnxruntime_quantizer import OnnxRuntimeQuantizer
from decompose.inference.quantization.openvino_quantizer import OpenVinoQuantizer
from decompose.utils.errors import DecomposeError


class Quantizer(Protocol):
    """Makes INT8 models of one float model."""

    @property
    def layers(self) -> Mapping[str, Sequence[str]]:
        """The nodes of each layer that can be quantised."""
        ...

    @property
    def repairs(self) -> Sequence[str]:
        """Names of repairs that may lower the error."""
        ...

    def repair(self, name: str) -> Self:
        """The quantiser with one of its repairs made."""
        ...

    def quantized(self, in_float: Collection[str] = ()) -> Mapping[str, bytes]:
        """Files of the model in INT8, by suffix, some of its layers in float."""
        ...

    def quantized_alone(self, layer: str) -> Mapping[str, bytes]:
        """Files of the model with one layer in INT8."""
        ...

    def outputs(
        self, files: Mapping[str, bytes], images: Sequence[Tensor]
    ) -> list[list[np.ndarray]]:
        """Floating outputs of a quantised model, batch by batch."""
        ...

    def float_outputs(self, images: Sequence[Tensor]) -> list[list[np.ndarray]]:
        """Floating outputs of the float model, batch by batch."""
        ...


QUANTIZERS = {"onnxruntime": OnnxRuntimeQuantizer, "openvino": OpenVinoQuantizer}
"""Quantisers by the names of their engines."""

SUFFIXES = {"onnxruntime": ".onnx", "openvino": ".xml"}
"""Suffix of the model file of each engine."""


def get_quantizer_class(engine: str) -> type[OnnxRuntimeQuantizer | OpenVinoQuantizer]:
    """The quantiser of an engine, to be made with a model, batches and bits of weights.

    Raises:
        DecomposeError: the engine has none.
    """
    if engine not in QUANTIZERS:
        raise DecomposeError(
            f"engine {engine!r} runs no INT8 models made here; there are: {', '.join(QUANTIZERS)}"
        )
    return QUANTIZERS[engine]
