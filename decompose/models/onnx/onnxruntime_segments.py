"""Run segments of an ONNX graph in ONNX Runtime, on torch's tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from decompose.models.onnx.graph import output_names, read_names
from decompose.models.onnx.model_file import OnnxModel
from decompose.utils.errors import DecomposeError, first_line
from decompose.utils.optional_dependencies import required

if TYPE_CHECKING:
    import onnx_ir as ir

_FED = 1 << 20
"""Bytes from which a constant is fed to a session, which would copy it otherwise."""


class Segment:
    """Nodes that run together; a session is made when they first run.

    Args:
        model: that they are part of.
        nodes: in an order in which they can run.
        outputs: what others read of what they write.
        constants: by name; what the nodes read of them goes into the session.
    """

    def __init__(
        self,
        model: OnnxModel,
        nodes: Sequence[ir.Node],
        outputs: Sequence[str],
        constants: Mapping[str, np.ndarray],
    ) -> None:
        self.outputs = list(outputs)
        self._model, self._nodes = model, nodes
        written = {name for node in nodes for name in output_names(node)}
        read = dict.fromkeys(name for node in nodes for name in read_names(node))
        free = [name for name in read if name not in written]
        self.inputs = [name for name in free if name not in constants]
        known = {name: constants[name] for name in free if name in constants}
        self._fed = {name: value for name, value in known.items() if value.nbytes >= _FED}
        self._kept = {name: value for name, value in known.items() if name not in self._fed}
        self._session: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Segment:
        # It has no state but a session, which may be shared.
        return self

    @property
    def title(self) -> str:
        """Its operators, for messages."""
        kinds = list(dict.fromkeys(node.op_type for node in self._nodes))
        return ", ".join(kinds[:4]) + (" and others" if len(kinds) > 4 else "")

    def run(self, *inputs: Tensor) -> list[Tensor]:
        """Compute the outputs; gradients of zero go back through it.

        Args:
            inputs: of the values that ``self.inputs`` names.

        Raises:
            DecomposeError: ONNX Runtime cannot run it.
        """
        outputs = _Opaque.apply(self, *inputs)
        assert isinstance(outputs, tuple)
        return list(outputs)

    def compute(self, *inputs: Tensor) -> list[Tensor]:
        """Compute the outputs, without gradients."""
        arrays = {
            name: x.detach().cpu().contiguous().numpy()
            for name, x in zip(self.inputs, inputs, strict=True)
        }
        arrays |= self._fed
        # ONNX Runtime's errors have no base of their own.
        try:
            if self._session is None:
                self._session = self._start(arrays)
            values = self._session.run(self.outputs, arrays)
            return [torch.from_numpy(np.array(value)) for value in values]
        except Exception as error:  # noqa: BLE001
            raise DecomposeError(
                f"ONNX Runtime cannot run {self.title}: {first_line(error)}"
            ) from None

    def _start(self, arrays: Mapping[str, np.ndarray]) -> Any:
        ort = required("onnxruntime", "ONNX Runtime", "onnx")
        import onnx_ir as ir
        from onnx import helper, numpy_helper

        whole = self._model.content
        graph = helper.make_graph(
            [ir.to_proto(node) for node in self._nodes],
            "segment",
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim
                )
                for name, value in arrays.items()
            ],
            [helper.make_empty_tensor_value_info(name) for name in self.outputs],
            [numpy_helper.from_array(value, name) for name, value in self._kept.items()],
        )
        proto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(*item) for item in whole.opset_imports.items()],
            functions=[ir.to_proto(function) for function in whole.functions.values()],
            ir_version=max(whole.ir_version, 4),
        )
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4
        # Its threads must not keep the cores busy while torch runs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return ort.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


class _Opaque(torch.autograd.Function):
    """A segment as one operator without gradients.

    Zeros go back instead of nothing, so that the layers behind the segment still see theirs.
    """

    @staticmethod
    def forward(ctx: Any, segment: Segment, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the segment gives; raises ``DecomposeError`` where ONNX Runtime cannot run it."""
        ctx.save_for_backward(*inputs)
        outputs = segment.compute(*inputs)
        ctx.mark_non_differentiable(*(y for y in outputs if not y.is_floating_point()))
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Zeros of the shapes of the floating inputs."""
        zeros = (torch.zeros_like(x) if x.is_floating_point() else None for x in ctx.saved_tensors)
        return None, *zeros
