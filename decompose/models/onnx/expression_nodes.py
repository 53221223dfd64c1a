"""Write expressions as ONNX nodes.

Every leaf becomes one ``Conv``, ``ConvTranspose`` or ``MatMul``, every sum a chain of ``Add``, which
engines fuse into the convolution before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from decompose.algebra import Chain, Conv, Expression, leaves, output_size
from decompose.algebra.composition import with_groups
from decompose.algebra.execution import swap_transposed_layout

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

OPSET = 20
_IR_VERSION = 10
_PADDING_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def to_onnx_model(expression: Expression, input_shape: Sequence[int]) -> onnx.ModelProto:
    """A model from ``input`` to ``output`` that computes an expression.

    Args:
        expression: its weights in a dtype that numpy has.
        input_shape: ``(batch, I, *input_size)``; the batch may be any other later.
    """
    import onnx_ir as ir

    kind = ir.TensorType(ir.DataType.from_numpy(next(leaves(expression)).weight.numpy().dtype))
    x = ir.Value(name="input", type=kind, shape=ir.Shape(["batch", *input_shape[1:]]))
    made = Nodes()
    last_value = made.add(expression, x)
    *_, last = leaves(expression)
    if last.geometry.num_axes:
        outputs = [last.out_channels, *output_size(expression, input_shape[2:])]
    else:
        outputs = [*input_shape[1:-1], last.out_channels]
    y = ir.Value(name="output", type=kind, shape=ir.Shape(["batch", *outputs]))
    graph = ir.Graph(
        [x],
        [y],
        nodes=[*made.nodes, ir.node("Identity", [last_value], outputs=[y])],
        initializers=list(made.weights.values()),
        opset_imports={"": OPSET},
        name="decompose",
    )
    return ir.to_proto(ir.Model(graph, ir_version=_IR_VERSION))


class Nodes:
    """Nodes and weights as they are added; a tensor that is added twice is kept once.

    Args:
        fresh: makes a new name from a kind: ``value`` or ``weight``.

    Attributes:
        nodes: in an order in which they can run.
        weights: what they read besides, by name.
    """

    def __init__(self, fresh: Callable[[str], str] | None = None) -> None:
        self.nodes: list[ir.Node] = []
        self.weights: dict[str, ir.Value] = {}
        self._fresh = fresh or (lambda kind: f"{kind}{len(self.nodes)}_{len(self.weights)}")
        # The tensors are kept, so that no other gets the same address.
        self._known: dict[Any, tuple[ir.Value, Tensor]] = {}

    def add(self, expression: Expression, x: ir.Value, automatic: str = "") -> ir.Value:
        """Add the nodes of an expression of ``x``, and give their output.

        Args:
            expression: what they compute.
            x: its input.
            automatic: the ``auto_pad`` of its ordinary convolutions, instead of their own padding.
        """
        if isinstance(expression, Conv):
            return self._add_leaf(expression, x, automatic)
        if isinstance(expression, Chain):
            for part in expression.parts:
                x = self.add(part, x, automatic)
            return x
        total, *others = [self.add(part, x, automatic) for part in expression.parts]
        for other in others:
            total = self.node("Add", total, other)
        return total

    def node(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Add a node of one output, and give that."""
        import onnx_ir as ir

        output = ir.Value(name=self._fresh("value"))
        self.nodes.append(ir.node(kind, inputs, attributes, outputs=[output], name=""))
        return output

    def integers(self, numbers: Sequence[int]) -> ir.Value:
        """Add a list of integers as a constant."""
        return self._constant(torch.tensor(numbers, dtype=torch.int64))

    def _add_leaf(self, conv: Conv, x: ir.Value, automatic: str) -> ir.Value:
        g = conv.geometry
        bias = [] if conv.bias is None else [self._constant(conv.bias)]
        if g.num_axes == 0:
            whole = conv if conv.groups == 1 else with_groups(conv, 1)
            product = self.node("MatMul", x, self._constant(whole.weight.T))
            return self.node("Add", product, *bias) if bias else product
        if g.pooled:
            x = self.node("ReduceMean", x, self.integers(range(2, 2 + g.num_axes)), keepdims=1)
        pads = [width for side in zip(*g.padding, strict=True) for width in side]
        if g.padding_mode != "zeros":
            wide = self.integers([0, 0, *pads[: g.num_axes], 0, 0, *pads[g.num_axes :]])
            x = self.node("Pad", x, wide, mode=_PADDING_MODES[g.padding_mode])
            pads = [0] * len(pads)
        options = {
            "kernel_shape": conv.kernel_size,
            "strides": g.stride,
            "dilations": g.dilation,
            "group": conv.groups,
            **({"auto_pad": automatic} if automatic else {"pads": pads}),
        }
        if not g.transposed:
            return self.node("Conv", x, self._constant(conv.weight), *bias, **options)
        weight = self._constant(conv.weight, swapped=conv.groups)
        return self.node(
            "ConvTranspose", x, weight, *bias, output_padding=g.output_padding, **options
        )

    def _constant(self, tensor: Tensor, swapped: int = 0) -> ir.Value:
        """Add a tensor; of a transposed kernel, whose layout is swapped, with its number of groups."""
        import onnx_ir as ir

        tensor = tensor.detach()
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, swapped)
        if key not in self._known:
            laid_out = swap_transposed_layout(tensor, swapped) if swapped else tensor
            name = self._fresh("weight")
            array = ir.Tensor(laid_out.cpu().contiguous().numpy(), name=name)
            self.weights[name] = ir.Value(name=name, const_value=array)
            self._known[key] = self.weights[name], tensor
        return self._known[key][0]
