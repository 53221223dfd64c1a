"""Expressions as ONNX graphs.

Every leaf becomes one ``Conv``, ``ConvTranspose`` or ``MatMul``, every sum a chain of ``Add``, which
engines fuse into the convolution before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from decompose.algebra import Chain, Conv, Expression, leaves, output_size
from decompose.algebra.composition import with_groups
from decompose.algebra.execution import swap_transposed_layout

if TYPE_CHECKING:
    import onnx

OPSET = 20
_IR_VERSION = 10
_PADDING_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def to_onnx_model(expression: Expression, input_shape: Sequence[int]) -> onnx.ModelProto:
    """A graph from ``input`` to ``output`` that computes an expression.

    Args:
        expression: its weights in a dtype that numpy has.
        input_shape: ``(batch, I, *input_size)``; the batch may be any other later.
    """
    from onnx import helper

    graph = _Graph()
    output = graph.add(expression, "input")
    *_, last = leaves(expression)
    if last.geometry.num_axes:
        outputs = [last.out_channels, *output_size(expression, input_shape[2:])]
    else:
        outputs = [*input_shape[1:-1], last.out_channels]
    kind = helper.np_dtype_to_tensor_dtype(next(leaves(expression)).weight.numpy().dtype)
    proto = helper.make_graph(
        [*graph.nodes, helper.make_node("Identity", [output], ["output"])],
        "decompose",
        [helper.make_tensor_value_info("input", kind, ["batch", *input_shape[1:]])],
        [helper.make_tensor_value_info("output", kind, ["batch", *outputs])],
        graph.initializers,
    )
    return helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION
    )


class _Graph:
    """Nodes and weights as they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, expression: Expression, x: str) -> str:
        """Add the nodes of an expression of ``x``, and name what they give."""
        if isinstance(expression, Conv):
            return self._add_leaf(expression, x)
        if isinstance(expression, Chain):
            for part in expression.parts:
                x = self.add(part, x)
            return x
        total, *others = (self.add(part, x) for part in expression.parts)
        for other in others:
            total = self._node("Add", total, other)
        return total

    def _add_leaf(self, conv: Conv, x: str) -> str:
        g = conv.geometry
        bias = [] if conv.bias is None else [self._constant(conv.bias)]
        if g.num_axes == 0:
            product = self._node("MatMul", x, self._constant(with_groups(conv, 1).weight.T))
            return self._node("Add", product, *bias) if bias else product
        pads = [width for side in zip(*g.padding, strict=True) for width in side]
        if g.padding_mode != "zeros":
            wide = self._integers([0, 0, *pads[: g.num_axes], 0, 0, *pads[g.num_axes :]])
            x = self._node("Pad", x, wide, mode=_PADDING_MODES[g.padding_mode])
            pads = [0] * len(pads)
        options = {
            "kernel_shape": conv.kernel_size,
            "strides": g.stride,
            "dilations": g.dilation,
            "pads": pads,
            "group": conv.groups,
        }
        if not g.transposed:
            return self._node("Conv", x, self._constant(conv.weight), *bias, **options)
        weight = self._constant(swap_transposed_layout(conv.weight, conv.groups))
        return self._node(
            "ConvTranspose", x, weight, *bias, output_padding=g.output_padding, **options
        )

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        output = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _constant(self, tensor: Tensor) -> str:
        from onnx import numpy_helper

        name = f"weight{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(tensor.detach().cpu().numpy(), name))
        return name

    def _integers(self, numbers: Sequence[int]) -> str:
        return self._constant(torch.tensor(numbers, dtype=torch.int64))
