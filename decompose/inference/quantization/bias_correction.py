"""Correct biases for the mean error of rounded weights.

A kernel W rounded to Q shifts the mean of output o by ``sum_i (Q - W)[o, i] E[x_i]``, its taps added, which
is known once the mean of each input channel is (Nagel et al. 2019, arXiv 1906.04721, section 4.2). Borders,
where some taps meet padding, are taken for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from decompose.inference.quantization.graphs import WEIGHTED, arrays_of
from decompose.utils.optional_dependencies import required


def bias_corrected(proto: Any, quantised: Any, means: Mapping[str, np.ndarray]) -> Any:
    """Correct the float model's biases by the mean shifts of its quantised outputs.

    Args:
        proto: the float ``ModelProto``; left as it was.
        quantised: what a quantiser made of it, its weights behind ``DequantizeLinear``.
        means: ``(I,)`` by what each node reads, as ``channel_means`` gives them.

    Returns:
        A copy; nodes whose weights are shared, or not quantised, keep their biases.
    """
    onnx = required("onnx", "ONNX", "onnx")
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    weights, rounded = arrays_of(proto), rounded_weights(quantised)
    uses = [name for node in proto.graph.node for name in node.input]
    for node in made.graph.node:
        weight, read = (node.input[1], node.input[0]) if len(node.input) > 1 else ("", "")
        if node.op_type not in WEIGHTED or node.name not in rounded or read not in means:
            continue
        if node.op_type in ("ConvTranspose", "MatMul") or uses.count(weight) > 1:
            continue
        shift = _shift(node, rounded[node.name] - weights[weight], means[read])
        if shift is not None:
            _add_bias(made, node, -shift, weights, uses)
    return made


def rounded_weights(quantised: Any) -> dict[str, np.ndarray]:
    """The weights that quantised nodes compute with, by the nodes' names."""
    constants = arrays_of(quantised)
    made_by = {node.output[0]: node for node in quantised.graph.node if node.output}
    found = {}
    for node in quantised.graph.node:
        source = made_by.get(node.input[1]) if len(node.input) > 1 else None
        if node.op_type in WEIGHTED and source is not None and source.input[0] in constants:
            found[node.name] = _dequantised(source, constants)
    return found


def _dequantised(node: Any, constants: Mapping[str, np.ndarray]) -> np.ndarray:
    whole, scale = constants[node.input[0]], constants[node.input[1]]
    zero = constants[node.input[2]] if len(node.input) > 2 else np.zeros_like(scale)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    shape = [1] * whole.ndim
    if scale.size > 1:
        shape[axis] = scale.size
    centred = whole.astype(np.float32) - zero.astype(np.float32).reshape(shape)
    return centred * scale.reshape(shape)


def _shift(node: Any, error: np.ndarray, means: np.ndarray) -> np.ndarray | None:
    """Shift of a node's mean output, ``(O,)``."""
    if node.op_type == "Conv":
        outputs, width = error.shape[:2]
        groups = len(means) // width
        by_group = means.reshape(groups, width)
        blocks = error.reshape(groups, outputs // groups, width, -1).sum(3)
        return np.einsum("goi,gi->go", blocks, by_group).reshape(-1)
    transposed = next((a.i for a in node.attribute if a.name == "transB"), 0)
    plain = all(a.f == 1 for a in node.attribute if a.name in ("alpha", "beta"))
    matrix = error if transposed else error.T
    return matrix @ means if plain and matrix.shape[1] == len(means) else None


def _add_bias(
    made: Any, node: Any, shift: np.ndarray, weights: Mapping[str, np.ndarray], uses: list[str]
) -> None:
    onnx = required("onnx", "ONNX", "onnx")
    given = node.input[2] if len(node.input) > 2 else ""
    if given and (given not in weights or uses.count(given) > 1):
        return
    bias = shift.astype(np.float32) + (weights[given] if given else 0)
    name = given or f"{node.input[1]}/bias"
    tensor = onnx.numpy_helper.from_array(bias.astype(np.float32), name)
    if given:
        next(t for t in made.graph.initializer if t.name == given).CopyFrom(tensor)
        return
    made.graph.initializer.append(tensor)
    if len(node.input) > 2:
        node.input[2] = name
    else:
        node.input.append(name)
