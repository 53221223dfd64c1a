"""Rewrite pretrained convolutional networks as smaller ones, without data and without training.

::

    plan  = decompose.plan(model, example, method="pw_dw", rank=4)
    small = decompose.apply(plan, model)
    print(decompose.compare(model, small, images))
    decompose.save(small, "small.safetensors")
    small = decompose.load("small.safetensors")
    better = decompose.finetune(small, labelled, teacher=model).network
    tuned = decompose.tune(small, example, engine="onnxruntime").network
    decompose.to_onnx(small, images, "small.onnx")
    decompose.quantize(small, images).save("small-int8.onnx")
"""

from decompose.compression.application import apply
from decompose.compression.search.planning import plan
from decompose.compression.search.scoring import measure
from decompose.data.synthetic import synthetic_inputs
from decompose.evaluation.comparison import compare
from decompose.inference.allocator import keep_freed_memory
from decompose.inference.quantization.post_training import quantize
from decompose.inference.tuning import tune
from decompose.methods.choices import Choice
from decompose.models.export import to_onnx
from decompose.models.plans import Plan
from decompose.models.serialization import load, save
from decompose.training.finetuning import finetune
from decompose.utils.errors import DecomposeError

__all__ = [
    "Choice",
    "DecomposeError",
    "Plan",
    "apply",
    "compare",
    "finetune",
    "keep_freed_memory",
    "load",
    "measure",
    "plan",
    "quantize",
    "save",
    "synthetic_inputs",
    "to_onnx",
    "tune",
]
