"""What ranks in multiples cost and gain: a model by spatial decomposition, every layer at the same ratio.

No images, no repair: the ranks alone differ. A layer's rank is the largest multiple within the ratio, so
that a larger multiple keeps fewer weights; error and time stand beside the MACs.
"""

from __future__ import annotations

from typing import Any

import decompose
from decompose.algebra import Deviation
from decompose.inference.engines import OnnxEngine, get_engine
from decompose.layers.costs import count_macs, trace_shapes
from decompose.layers.forward import outputs
from decompose.models.export import to_onnx_bytes
from experiments.int8.cpu_times import cpu_times
from experiments.int8.subjects import Subject

MULTIPLES = (1, 8, 16, 32)
RATIO = 1.5
_NUM_CALIBRATED = 8
_NUM_TEST = 64


def measured(subject: Subject) -> dict[str, Any]:
    """Cost, error and time of each multiple, ready for JSON."""
    images = subject.calibration[:_NUM_CALIBRATED]
    shapes = trace_shapes(subject.dense, images[:1])
    test = subject.test[:_NUM_TEST]
    expected = outputs(subject.dense, test)
    rows: dict[int, dict[str, Any]] = {}
    files: dict[str, bytes] = {}
    for multiple in MULTIPLES:
        plan = decompose.plan(
            subject.dense, images[:1], method="spatial", ratio=RATIO, multiple=multiple
        )
        small = decompose.apply(plan, subject.dense)
        files[f"{multiple}, float"] = to_onnx_bytes(small, images[:1])
        files[f"{multiple}, INT8"] = decompose.quantize(small, images).files[".onnx"]
        rows[multiple] = {
            "macs": sum(count_macs(small, shapes).values()),
            "error": Deviation.between(outputs(small, test), expected).relative,
        }
    engine = get_engine("onnxruntime")
    assert isinstance(engine, OnnxEngine)
    calls = {name: engine.prepare_onnx(content, images[:1], 1) for name, content in files.items()}
    for name, found in cpu_times(calls).items():
        multiple, _, kind = name.partition(", ")
        rows[int(multiple)][f"{kind}, ms"] = found
    return {"title": subject.title, "num_test": len(test), "ratio": RATIO, "rows": rows}
