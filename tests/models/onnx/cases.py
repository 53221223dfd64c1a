"""Small ONNX models, made by hand and by onnx's own tests, and how to run them."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from decompose.models.onnx.model_file import read_model
from decompose.models.onnx.module import OnnxModule

OPSET = 17
_KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


def make_model(
    nodes: Sequence[NodeProto],
    weights: Mapping[str, np.ndarray],
    input_shape: Sequence[int | str],
    output_shape: Sequence[int | str | None],
    *,
    dtype: str = "float32",
    opset: int = OPSET,
    ir_version: int = 8,
) -> ModelProto:
    """A model from ``x`` to ``y``."""
    inputs = [helper.make_tensor_value_info("x", _KINDS[dtype], input_shape)]
    if ir_version < 4:
        inputs += [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in weights.items()
        ]
    graph = helper.make_graph(
        nodes,
        "case",
        inputs,
        [helper.make_tensor_value_info("y", _KINDS[dtype], output_shape)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )


def small_cnn(dtype: str = "float32") -> ModelProto:
    """Two convolutions, one shared by two nodes and one transposed, a normalisation and a head."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / 4).astype(dtype)

    weights = {
        "stem.weight": weight(16, 3, 3, 3),
        "stem.bias": weight(16),
        "block.weight": weight(16, 16, 3, 3),
        "up.weight": weight(16, 16, 3, 3),
        "scale": np.abs(weight(16)) + np.float32(1).astype(dtype),
        "shift": weight(16),
        "head.weight": weight(7, 16),
        "head.bias": weight(7),
    }
    node = helper.make_node
    nodes = [
        node(
            "Conv",
            ["x", "stem.weight", "stem.bias"],
            ["a"],
            "stem",
            strides=[2, 2],
            pads=[0, 0, 1, 1],
        ),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "block.weight"], ["c"], "block/1", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "scale", "shift", "shift", "scale"], ["d"]),
        node("Relu", ["d"], ["e"]),
        node("Conv", ["e", "block.weight"], ["f"], "block/2", pads=[1, 1, 1, 1]),
        node("Add", ["f", "b"], ["g"]),
        node("Atan", ["g"], ["h"]),
        node(
            "ConvTranspose", ["h", "up.weight"], ["i"], "up", strides=[2, 2], auto_pad="SAME_UPPER"
        ),
        node("GlobalAveragePool", ["i"], ["j"]),
        node("Flatten", ["j"], ["k"]),
        node("Gemm", ["k", "head.weight", "head.bias"], ["y"], "head", transB=1),
    ]
    model = make_model(nodes, weights, ["batch", 3, 16, 16], ["batch", 7], dtype=dtype)
    model.producer_name, model.doc_string = "somebody", "what it is for"
    model.metadata_props.add(key="stage", value="tested")
    return model


def read(model: ModelProto, folder: Path) -> OnnxModule:
    """The network of a model, by way of a file."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    return OnnxModule(read_model(path))


def run_onnx(model: ModelProto | Path, *inputs: np.ndarray | torch.Tensor) -> list[np.ndarray]:
    """What onnxruntime makes of inputs, in the order of the model's."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return list(
        map(np.asarray, session.run(None, dict(zip(names, map(np.asarray, inputs), strict=True))))
    )


def node_tests(*modules: str) -> Iterator[tuple[str, ModelProto, Sequence[np.ndarray]]]:
    """Onnx's own tests of operators: name, model and inputs; of all files would take minutes."""
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in modules:
            importlib.import_module(f"onnx.backend.test.case.node.{module}")
    for case in node._NodeTestCases:
        if case.name.split("test_")[-1].removeprefix("basic_").startswith(modules):
            yield case.name, case.model, [np.asarray(x) for x in case.data_sets[0][0]]


def with_constant_weights(model: ModelProto, inputs: Sequence[np.ndarray]) -> ModelProto:
    """A model with all of its inputs but the first made constants, and that one a batch of any size."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value, array in zip(model.graph.input[1:], inputs[1:], strict=True):
        fixed.graph.initializer.append(numpy_helper.from_array(array, value.name))
    del fixed.graph.input[1:]
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    return fixed
