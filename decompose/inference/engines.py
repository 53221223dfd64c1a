"""Engines that run models: torch as it is, compiled or as a CUDA graph, ONNX Runtime, OpenVINO.

An engine takes a model and an input, prepares what it needs once, and gives a call without
arguments that runs the model on that input. Everything that is timed is timed through it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from decompose.inference.allocator import keep_freed_memory
from decompose.inference.engine_models import EngineModel, OpenVinoModel
from decompose.layers.discovery import copied
from decompose.layers.forward import takes_channels_last
from decompose.models.export import to_onnx_bytes
from decompose.models.openvino_core import openvino_core
from decompose.utils.batches import Example, call, device_of, first, in_channels_last
from decompose.utils.errors import DecomposeError
from decompose.utils.optional_dependencies import required

PreparedModel = Callable[[], object]
"""Runs a prepared model once on its input."""


class Engine(ABC):
    """An engine that runs models."""

    name: ClassVar[str]
    """Name on the command line."""

    title: ClassVar[str]
    """Name in tables."""

    forms: ClassVar[Sequence[str]] = ("branches", "merged")
    """Forms of a layer (``decompose.layers.execution_forms``) whose times differ in this engine."""

    channel_block: ClassVar[int] = 16
    """Channels that it computes together; the last block takes as long as a full one."""

    fewer_macs: ClassVar[float] = 0.6
    """With this share of another rewriting's MACs a layer is faster for certain: no two methods differ
    more in how fast their MACs run."""

    @abstractmethod
    def version(self) -> str:
        """The engine's version.

        Raises:
            DecomposeError: it is not installed.
        """

    @abstractmethod
    def prepare(self, model: nn.Module, x: Example, num_threads: int) -> PreparedModel:
        """Make a model ready to run.

        Args:
            model: left as it was.
            x: one batch of the model's dtype, on the device to run on.
            num_threads: on the CPU. Of torch it is the caller's to set.

        Raises:
            DecomposeError: the engine is not installed or cannot run the model.
        """


class Eager(Engine):
    """Eager torch."""

    name, title = "eager", "eager torch"
    forms = ("branches", "merged", "branches-whole", "merged-whole")

    def __init__(self, *, channels_last: bool = True) -> None:
        self.channels_last = channels_last

    def version(self) -> str:
        """Torch's version."""
        return torch.__version__

    def prepare(self, model: nn.Module, x: Example, num_threads: int) -> PreparedModel:
        """Copy the model to the input's device, in channels-last order if its input is 2-D.

        On a CPU the process keeps freed memory from now on (``allocator``).
        """
        model, x = self._placed(model, x)

        def run() -> object:
            with torch.inference_mode():
                return call(model, x)

        return run

    def _placed(self, model: nn.Module, x: Example) -> tuple[nn.Module, Example]:
        """A copy of the model on the input's device, and the input, in the order that it runs in."""
        _require_open(model, self)
        device = device_of(x)
        if device.type == "cpu":
            keep_freed_memory()
        model = copied(model).to(device).eval()
        if self.channels_last and self._takes_channels_last(model, x):
            model.to(memory_format=torch.channels_last)
            x = in_channels_last(x)
        return model, x

    def _takes_channels_last(self, model: nn.Module, x: Example) -> bool:
        is_image = isinstance(x, Tensor) and x.ndim == 4
        with torch.no_grad():
            return is_image and takes_channels_last(model, first(x))


class Compiled(Eager):
    """Torch with ``torch.compile``."""

    name, title = "compile", "torch.compile"
    forms = ("branches", "merged")

    def prepare(self, model: nn.Module, x: Example, num_threads: int) -> PreparedModel:
        """As eager torch, compiled for this shape on the first call; with CUDA graphs on a GPU."""
        mode = "reduce-overhead" if device_of(x).type == "cuda" else None
        model, x = self._placed(model, x)

        def run() -> object:
            return call(model, x)

        # torch.compile keeps few compilations of one code object, and runs any further ones eagerly.
        run.__code__ = run.__code__.replace()
        # Not in inference mode: torch 2.11 cannot trace every model in it.
        return torch.no_grad()(torch.compile(run, mode=mode, dynamic=False))


class CudaGraph(Eager):
    """Torch on a GPU, its kernels recorded once and replayed without the CPU between them."""

    name, title = "cudagraph", "CUDA graph"
    forms = ("branches", "merged")

    def prepare(self, model: nn.Module, x: Example, num_threads: int) -> PreparedModel:
        """As eager torch, recorded as a CUDA graph (``torch.cuda.CUDAGraph``) for this input."""
        if device_of(x).type != "cuda":
            raise DecomposeError("the cudagraph engine needs a GPU: --device cuda")
        run = super().prepare(model, x, num_threads)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = run()

        return _Replay(graph, run, output)


@dataclass(frozen=True)
class _Replay:
    """A recorded graph; it owns the model and input that its kernels read, which the graph does not."""

    graph: torch.cuda.CUDAGraph
    recorded: PreparedModel
    output: object

    def __call__(self) -> object:
        self.graph.replay()
        return self.output


class Fused(Eager):
    """Torch on a GPU, DW+PW layers in one Triton kernel (``triton_kernels``)."""

    name, title = "triton", "Triton"
    forms = ("branches",)

    def version(self) -> str:
        """Triton's version."""
        return required("triton", self.title, "gpu").__version__

    def prepare(self, model: nn.Module, x: Example, num_threads: int) -> PreparedModel:
        """As eager torch, its fusible layers replaced by the kernel."""
        if device_of(x).type != "cuda":
            raise DecomposeError("the triton engine needs a GPU: --device cuda")
        from decompose.inference.triton_kernels import (
            fuse_,  # triton is not there on every platform
        )

        model = copied(model)
        fuse_(model)
        return super().prepare(model, x, num_threads)


class OnnxEngine(Engine):
    """An engine that runs ONNX models."""

    def prepare(self, model: nn.Module, x: Example, num_threads: int) -> PreparedModel:
        """As ``prepare_onnx``, of the exported model."""
        _require_open(model, self)
        x = _one_tensor(x, self.title)
        if x.device.type != "cpu":
            # These engines run on the CPU, wherever the model lies.
            model, x = copied(model).cpu(), x.cpu()
        return self.prepare_onnx(to_onnx_bytes(model, x), x, num_threads)

    @abstractmethod
    def prepare_onnx(self, content: bytes, x: Tensor, num_threads: int) -> PreparedModel:
        """Make an ONNX model ready to run.

        Args:
            content: of the file.
            x: one batch, of the dtype that the model takes.
            num_threads: on the CPU.
        """


class OnnxRuntime(OnnxEngine):
    """ONNX Runtime on the CPU."""

    name, title = "onnxruntime", "ONNX Runtime"

    def version(self) -> str:
        """ONNX Runtime's version."""
        return required("onnxruntime", self.title, "onnx").__version__

    def prepare_onnx(self, content: bytes, x: Tensor, num_threads: int) -> PreparedModel:
        """A session of the model."""
        ort = required("onnxruntime", self.title, "onnx")
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        # Sessions take turns: one that waits must not keep the cores busy.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        inputs = {session.get_inputs()[0].name: x.cpu().numpy()}
        return lambda: session.run(None, inputs)


class OpenVino(OnnxEngine):
    """OpenVINO on the CPU."""

    name, title = "openvino", "OpenVINO"

    def version(self) -> str:
        """OpenVINO's version."""
        return required("openvino", self.title, "openvino").__version__

    def prepare(self, model: nn.Module, x: Example, num_threads: int) -> PreparedModel:
        """As of other models; one in OpenVINO's own format runs as it is."""
        if isinstance(model, OpenVinoModel):
            x = _one_tensor(x, self.title)
            return self._compiled(model.network.clone(), x, num_threads)
        return super().prepare(model, x, num_threads)

    def prepare_onnx(self, content: bytes, x: Tensor, num_threads: int) -> PreparedModel:
        """A request on the model, compiled for this shape."""
        return self._compiled(openvino_core().read_model(content), x, num_threads)

    def _compiled(self, network: Any, x: Tensor, num_threads: int) -> PreparedModel:
        """A request on a network, which is changed to take inputs of this shape."""
        core = openvino_core()
        network.reshape(list(x.shape))
        settings: Mapping[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": num_threads,
            # Its default on some CPUs is bfloat16, which is another model.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        request = core.compile_model(network, "CPU", settings).create_infer_request()
        values = x.cpu().numpy()
        return lambda: request.infer([values], share_inputs=True, share_outputs=True)


ENGINES: Mapping[str, type[Engine]] = {
    engine.name: engine for engine in (Eager, Compiled, OnnxRuntime, OpenVino, CudaGraph, Fused)
}

DEFAULT_ENGINE = Eager.name


def default_engine(device: torch.device) -> str:
    """The default engine of a latency budget.

    On a GPU a small layer is over before the CPU has launched the next, so eager torch would time the
    CPU: a CUDA graph times the kernels.
    """
    return CudaGraph.name if device.type == "cuda" else DEFAULT_ENGINE


def get_engine(name: str, *, channels_last: bool = True) -> Engine:
    """The engine of a name.

    Args:
        name: one of ``ENGINES``.
        channels_last: lay 2-D models out in channels-last order, which convolutions on CPUs and
            tensor cores prefer; the others than torch choose for themselves.

    Raises:
        DecomposeError: there is none, or it is not installed.
    """
    if name not in ENGINES:
        raise DecomposeError(f"engine {name!r} does not exist; there are: {', '.join(ENGINES)}")
    kind = ENGINES[name]
    engine = kind(channels_last=channels_last) if issubclass(kind, Eager) else kind()
    engine.version()
    return engine


def _require_open(model: nn.Module, engine: Engine) -> None:
    """Refuse a model that another engine runs whole, whose time would be reported as this one's."""
    if isinstance(model, EngineModel):
        raise DecomposeError(
            f"a model of {model.title} runs in no other engine, such as {engine.title}; "
            f"give --engines {model.title.lower()}"
        )


def _one_tensor(x: Example, title: str) -> Tensor:
    if not isinstance(x, Tensor):
        raise DecomposeError(f"{title} is given models of one input tensor only; use eager")
    return x
