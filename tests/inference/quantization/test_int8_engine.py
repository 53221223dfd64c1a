"""Times in INT8 are those of INT8 models."""

import onnx
import pytest
import torch
from torch import nn

import decompose
from decompose.algebra import params
from decompose.inference.engines import OnnxRuntime
from decompose.inference.quantization import int8_engine as subject
from decompose.inference.quantization.int8_engine import int8_engine
from decompose.layers.modules import DecomposedLayer, to_conv
from decompose.methods.choices import Choice
from decompose.models.plans import Plan
from decompose.utils.errors import DecomposeError


def prepared_content(model: nn.Module, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What the engine inside is given, once it has run."""
    given: list[bytes] = []
    prepare = OnnxRuntime.prepare_onnx

    def keep(self: OnnxRuntime, content: bytes, x: torch.Tensor, num_threads: int):
        given.append(content)
        return prepare(self, content, x, num_threads)

    monkeypatch.setattr(OnnxRuntime, "prepare_onnx", keep)
    int8_engine("onnxruntime").prepare(model, x, 1)()
    return given[0]


@pytest.mark.parametrize("form", ["branches", "merged"])
def test_a_layer_alone_takes_and_gives_bytes(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    conv = nn.Conv2d(6, 8, 3, padding=1)
    layer = DecomposedLayer(conv, Choice("pw_dw", 2).rewrite(to_conv(conv)), Choice("pw_dw", 2))
    layer.take_form(form)
    graph = onnx.load_from_string(
        prepared_content(layer, torch.randn(2, 6, 9, 9), monkeypatch)
    ).graph
    ends = [value.type.tensor_type.elem_type for value in (graph.input[0], graph.output[0])]
    assert ends == [onnx.TensorProto.UINT8] * 2


def test_a_network_takes_and_gives_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    content = prepared_content(model, torch.randn(2, 3, 9, 9), monkeypatch)
    graph = onnx.load_from_string(content).graph
    ends = [value.type.tensor_type.elem_type for value in (graph.input[0], graph.output[0])]
    assert ends == [onnx.TensorProto.FLOAT] * 2
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("QuantizeLinear") >= 2
    assert "BatchNormalization" not in kinds


def test_a_budget_of_time_may_be_one_of_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    from decompose.compression.search import latency_budget

    monkeypatch.setattr(
        latency_budget, "time_models", lambda models, *_: dict.fromkeys(models, 1.0)
    )
    targets = []

    class Known:
        """Latencies that are MACs."""

        def __init__(self, target: object) -> None:
            targets.append(str(target))
            self.target = target

        def measure_calls(self, dense: object, variants: list, *_: object) -> list[float]:
            weights = [variant.of(dense) for variant in variants]
            return [params(made) / 1e3 for made in weights]

    monkeypatch.setattr(latency_budget, "Latencies", Known)
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    plan = decompose.plan(
        model,
        torch.randn(1, 8, 12, 12),
        latency=1.0,
        engine="onnxruntime",
        int8=True,
        methods=["spatial"],
    )
    assert isinstance(plan, Plan)
    assert targets[0].startswith("onnxruntime-int8 ")
    assert subject.Int8Engine.fewer_macs < OnnxRuntime.fewer_macs


def test_int8_needs_an_engine_that_runs_it() -> None:
    with pytest.raises(DecomposeError, match="onnxruntime or openvino, not of eager"):
        int8_engine("eager")
    model = nn.Conv2d(3, 4, 3)
    with pytest.raises(DecomposeError, match="give latency"):
        decompose.plan(model, torch.randn(1, 3, 9, 9), macs=0.5, int8=True)
