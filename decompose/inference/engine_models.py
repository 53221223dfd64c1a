"""Models of files as their engines run them, called on torch tensors like any other module.

What is measured is then what is shipped: an INT8 file in its engine's own kernels, not a copy of its graph
in torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from decompose.models.onnx.module import OnnxModule
from decompose.models.onnx.rewriting import self_contained
from decompose.models.onnx.shapes import Signature
from decompose.models.onnx.writing import model_bytes
from decompose.models.openvino_core import openvino_core
from decompose.utils.errors import DecomposeError, first_line
from decompose.utils.optional_dependencies import required

OPENVINO_SUFFIX = ".xml"


class EngineModel(nn.Module):
    """A whole model in an engine on the CPU, as a module without parameters or layers.

    Args:
        title: the engine's, for messages.
        signature: of the model's input.
        content: of its files, which its digest is of.

    Attributes:
        signature: as given.
        digest: SHA-256 of the content, ``(32,)`` bytes, by which records know the model.
    """

    digest: Tensor

    def __init__(self, title: str, signature: Signature, *content: bytes) -> None:
        super().__init__()
        self.title, self.signature = title, signature
        digest = hashlib.sha256(b"".join(content)).digest()
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))
        self.eval()

    def run(self, x: np.ndarray) -> Sequence[np.ndarray]:
        """The outputs for one batch."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        """Compute the outputs.

        Args:
            x: ``(batch, C, *size)``, of any device and floating dtype.

        Returns:
            The output, or a tuple where there are several, on the input's device; no gradients go back. Of
            a softmax at the end it is the scores that go in, as torch's classifiers give them.

        Raises:
            DecomposeError: the engine does not take the input.
        """
        parts = x.split(1) if self.signature.batch == 1 else (x,)
        runs = [self._outputs(part) for part in parts]
        arrays = runs[0] if len(runs) == 1 else map(np.concatenate, zip(*runs, strict=True))
        found = [torch.from_numpy(np.asarray(array)).to(x.device) for array in arrays]
        return found[0] if len(found) == 1 else tuple(found)

    def _outputs(self, x: Tensor) -> Sequence[np.ndarray]:
        given = x.detach().cpu().to(self.signature.dtype).contiguous().numpy()
        # The engines' errors have no base of their own.
        try:
            return self.run(given)
        except Exception as error:  # noqa: BLE001
            shape = "x".join(map(str, x.shape))
            raise DecomposeError(
                f"{self.title} cannot run the model on an input of {shape}: {first_line(error)}"
            ) from None

    def __deepcopy__(self, memo: dict[int, Any]) -> EngineModel:
        # It has no state that could change, and sessions cannot be copied.
        return self


class OnnxRuntimeModel(EngineModel):
    """An ONNX model, whole in ONNX Runtime.

    Args:
        model: as ``load`` gives it; it may be decomposed.

    Raises:
        DecomposeError: onnxruntime is not installed, or cannot run the model.
    """

    def __init__(self, model: OnnxModule) -> None:
        content = _without_softmax(model_bytes(self_contained(model)), model.output_names)
        super().__init__("ONNX Runtime", model.signature, content)
        ort = required("onnxruntime", self.title, "onnx")
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4
        # Its threads must not keep the cores busy while another model runs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        # Its errors have no base of their own.
        except Exception as error:  # noqa: BLE001
            raise DecomposeError(
                f"{self.title} cannot run the model: {first_line(error)}"
            ) from None
        self._run = partial(_run_session, session, session.get_inputs()[0].name)

    def run(self, x: np.ndarray) -> Sequence[np.ndarray]:
        """The outputs for one batch."""
        return self._run(x)


class OpenVinoModel(EngineModel):
    """A model in OpenVINO's format: an ``.xml`` file, its weights beside it in ``.bin``.

    Args:
        path: of the ``.xml``.

    Raises:
        DecomposeError: openvino is not installed, the file is not there or damaged, or the model has not
            one input.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        files = [_read(path), _read(path.with_suffix(".bin"))]
        ov = required("openvino", "OpenVINO", "openvino")
        self._core = openvino_core()
        try:
            self.network = _scores(ov, self._core.read_model(*files))
        # Its errors have no base of their own.
        except RuntimeError as error:
            raise DecomposeError(
                f"{path}: is damaged or no OpenVINO model: {first_line(error)}"
            ) from None
        super().__init__("OpenVINO", _signature(self.network, path), *files)
        self._compiled: Any = None

    def run(self, x: np.ndarray) -> Sequence[np.ndarray]:
        """The outputs for one batch."""
        if self._compiled is None:
            settings: Mapping[str, Any] = {
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "INFERENCE_PRECISION_HINT": "f32",
            }
            self._compiled = self._core.compile_model(self.network, "CPU", settings)
        return [np.array(y) for y in self._compiled([x]).values()]


def is_openvino(source: str | Path) -> bool:
    """Whether a source is the name of a model in OpenVINO's format."""
    return Path(source).suffix.lower() == OPENVINO_SUFFIX


def in_engine(model: nn.Module) -> nn.Module:
    """A model as it is to be measured: one of an ONNX file whole in ONNX Runtime, others as they are."""
    return OnnxRuntimeModel(model) if isinstance(model, OnnxModule) else model


def _run_session(session: Any, name: str, x: np.ndarray) -> Sequence[np.ndarray]:
    return session.run(None, {name: x})


def _without_softmax(content: bytes, names: Sequence[str]) -> bytes:
    """An ONNX model with these values as outputs."""
    onnx = required("onnx", "ONNX", "onnx")
    proto = onnx.load_from_string(content)
    if [value.name for value in proto.graph.output] == list(names):
        return content
    del proto.graph.output[:]
    proto.graph.output.extend(map(onnx.helper.make_empty_tensor_value_info, names))
    return proto.SerializeToString()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DecomposeError(f"{path}: no such file") from None
    except OSError as error:
        raise DecomposeError(f"{path}: cannot be read: {first_line(error)}") from None


def _scores(ov: Any, network: Any) -> Any:
    """The network, a softmax at its end replaced by its input."""
    ends = []
    for output in network.outputs:
        end = output.get_node().input_value(0)
        node = end.get_node()
        ends.append(node.input_value(0) if node.get_type_name() == "Softmax" else end)
    return ov.Model(ends, network.get_parameters())


def _signature(network: Any, path: Path) -> Signature:
    inputs = network.inputs
    if len(inputs) != 1:
        raise DecomposeError(f"{path}: has {len(inputs)} inputs; only models of one can be run")
    (given,) = inputs
    shape = given.get_partial_shape()
    if shape.rank.is_dynamic or len(shape) < 2:
        raise DecomposeError(f"{path}: its input is no batch of a known number of axes")
    dims = tuple(None if dim.is_dynamic else dim.get_length() for dim in shape)
    if dims[0] not in (None, 1):
        raise DecomposeError(f"{path}: takes batches of {dims[0]} and no other")
    dtype = getattr(torch, np.dtype(given.get_element_type().to_dtype()).name, torch.float32)
    return Signature(given.get_any_name(), dtype, dims, is_channels_last=False)
