"""Rewrite pretrained convolutional networks as smaller ones, without data and without training.

::

    plan  = decompose.plan(model, example, method="pw_dw", rank=4)
    small = decompose.apply(plan, model)
    print(decompose.compare(model, small, images))
    decompose.save(small, "small.safetensors")
    small = decompose.load("small.safetensors")
    better = decompose.finetune(small, pictures, teacher=model).network
    tuned = decompose.tune(small, example, engine="onnxruntime").network
    decompose.to_onnx(small, images, "small.onnx")
"""

from decompose.choices import Choice
from decompose.comparison import compare
from decompose.convert import apply
from decompose.errors import DecomposeError
from decompose.export import to_onnx
from decompose.finetuning import finetune
from decompose.memory import keep_freed_memory
from decompose.models import load, save
from decompose.plans import Plan
from decompose.search import plan
from decompose.synthetic import synthetic_inputs
from decompose.tuning import tune
from decompose.weighing import measure

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
    "save",
    "synthetic_inputs",
    "to_onnx",
    "tune",
]
