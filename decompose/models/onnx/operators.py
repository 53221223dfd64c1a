"""Run ONNX operators as torch functions.

The operators between the layers of most models, so that gradients pass through them and a layer's
readers are found. Other operators, or uses that torch does not have, run in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from decompose.models.onnx.graph import attributes, input_names, output_names
from decompose.models.onnx.model_file import FLOATING

if TYPE_CHECKING:
    import onnx_ir as ir

Function = Callable[..., Tensor]
"""Maps the node's inputs, ``None`` where one is left out, to its only output."""

_Options = Mapping[str, Any]
_Constants = Sequence[np.ndarray | None]
"""A node's inputs where they are constant, ``None`` elsewhere."""


def torch_function(
    node: ir.Node, opset: int, constants: Mapping[str, np.ndarray]
) -> Function | None:
    """The torch function of a node, or ``None`` if there is none.

    Args:
        node: as onnx's checker admits it.
        opset: of ONNX's own operators.
        constants: by name.
    """
    outputs = output_names(node)
    if node.domain or not any(outputs[:1]) or any(outputs[1:]):
        return None
    if node.op_type in _PLAIN:
        return _PLAIN[node.op_type]
    if node.op_type in _MADE:
        given = [constants.get(name) for name in input_names(node)]
        return _MADE[node.op_type](attributes(node), given, opset)
    return None


def _global_mean(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def _global_max(x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


def _same(x: Tensor, *_: Tensor | None) -> Tensor:
    return x


_PLAIN: Mapping[str, Function] = {
    "Add": torch.add,
    "Div": torch.div,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "GlobalAveragePool": _global_mean,
    "GlobalMaxPool": _global_max,
    "HardSwish": F.hardswish,
    "Identity": _same,
    "MatMul": torch.matmul,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "PRelu": lambda x, slope: torch.where(x < 0, slope * x, x),
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Softplus": F.softplus,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
}


def _batch_norm(options: _Options, _: _Constants, opset: int) -> Function | None:
    if options.get("training_mode", 0) or not options.get("spatial", 1):
        return None
    epsilon = options.get("epsilon", 1e-5)
    return lambda x, scale, bias, mean, variance: F.batch_norm(
        x, mean, variance, scale, bias, False, 0.0, epsilon
    )


def _cast(options: _Options, _: _Constants, opset: int) -> Function | None:
    kind = FLOATING.get(options.get("to", 0))
    return None if kind is None else lambda x: x.to(getattr(torch, kind.name))


def _clip(options: _Options, given: _Constants, opset: int) -> Function | None:
    if opset < 11:
        least, most = options.get("min"), options.get("max")
    else:
        # A bound that is there but not constant may be anything.
        if len(given) > 3 or any(bound is None or bound.size != 1 for bound in given[1:]):
            return None
        least, most = [*(b.item() for b in given[1:] if b is not None), None, None][:2]
    if least is not None and most is not None and least > most:
        return None
    if least == 0 and most is None:
        return lambda x, *_: torch.relu(x)
    if least is None or most is None:
        return lambda x, *_: x.clamp(least, most)
    return lambda x, *_: F.hardtanh(x, least, most)


def _concat(options: _Options, _: _Constants, opset: int) -> Function:
    return lambda *xs: torch.cat(xs, options["axis"])


def _dropout(options: _Options, given: _Constants, opset: int) -> Function | None:
    return None if len(given) > 2 else _same


def _elu(options: _Options, _: _Constants, opset: int) -> Function:
    return lambda x: F.elu(x, options.get("alpha", 1.0))


def _flatten(options: _Options, _: _Constants, opset: int) -> Function:
    def flatten(x: Tensor) -> Tensor:
        axis = options.get("axis", 1)
        axis += x.ndim if axis < 0 else 0
        return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))

    return flatten


def _gelu(options: _Options, _: _Constants, opset: int) -> Function:
    return lambda x: F.gelu(x, approximate=options.get("approximate", "none"))


def _hard_sigmoid(options: _Options, _: _Constants, opset: int) -> Function:
    alpha, beta = options.get("alpha", 0.2), options.get("beta", 0.5)
    return lambda x: (alpha * x + beta).clamp(0, 1)


def _leaky_relu(options: _Options, _: _Constants, opset: int) -> Function:
    return lambda x: F.leaky_relu(x, options.get("alpha", 0.01))


def _layer_norm(options: _Options, _: _Constants, opset: int) -> Function:
    axis, epsilon = options.get("axis", -1), options.get("epsilon", 1e-5)

    def layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        """Layer normalisation with scale and bias of any shape that broadcasts, unlike torch's."""
        y = F.layer_norm(x, x.shape[axis:], eps=epsilon)
        return y * scale if bias is None else torch.addcmul(bias, y, scale)

    return layer_norm


def _pool(options: _Options) -> tuple[list[int], list[int], list[int]] | None:
    """Kernel, stride and pads of a pooling that torch has too."""
    if options.get("auto_pad", "NOTSET") != "NOTSET" or options.get("ceil_mode", 0):
        return None
    kernel = list(options["kernel_shape"])
    if not 1 <= len(kernel) <= 3:
        return None
    stride = list(options.get("strides", [1] * len(kernel)))
    pads = list(options.get("pads", [0] * 2 * len(kernel)))
    return (kernel, stride, pads) if len(pads) == 2 * len(kernel) else None


def _max_pool(options: _Options, _: _Constants, opset: int) -> Function | None:
    if (found := _pool(options)) is None:
        return None
    kernel, stride, pads = found
    axes = len(kernel)
    dilation = list(options.get("dilations", [1] * axes))
    pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1]

    def call(x: Tensor) -> Tensor:
        wide = F.pad(x, _sides(pads), value=float("-inf")) if any(pads) else x
        return pool(wide, kernel, stride, 0, dilation)

    return call


def _average_pool(options: _Options, _: _Constants, opset: int) -> Function | None:
    found = _pool(options)
    if found is None or any(d != 1 for d in options.get("dilations", ())):
        return None
    kernel, stride, pads = found
    axes = len(kernel)
    pool: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[axes - 1]
    counted = bool(options.get("count_include_pad", 0))
    padding = pads[:axes]
    if padding != pads[axes:] or any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        return None
    return lambda x: pool(x, kernel, stride, padding, False, counted)


def _pad(options: _Options, given: _Constants, opset: int) -> Function | None:
    if options.get("mode", "constant") != "constant" or len(given) > 3:
        return None
    if opset < 11:
        pads, value = list(options["pads"]), options.get("value", 0.0)
    else:
        if any(constant is None for constant in given[1:]):
            return None
        widths, *filling = (constant for constant in given[1:] if constant is not None)
        if any(number.size != 1 for number in filling):
            return None
        pads, value = widths.tolist(), filling[0].item() if filling else 0.0
    return lambda x, *_: F.pad(x, _sides(pads), value=value)


def _power(options: _Options, given: _Constants, opset: int) -> Function | None:
    exponent = given[1]
    if exponent is None or exponent.size != 1:
        return None
    return lambda x, _: x.pow(float(exponent.item()))


def _reduce_mean(options: _Options, given: _Constants, opset: int) -> Function | None:
    axes = options.get("axes")
    if axes is None and len(given) > 1 and given[1] is not None:
        axes = given[1].tolist()
    if not axes:
        return None
    return lambda x, *_: x.mean(tuple(axes), keepdim=bool(options.get("keepdims", 1)))


def _reshape(options: _Options, _: _Constants, opset: int) -> Function | None:
    if options.get("allowzero", 0):
        return None

    def reshape(x: Tensor, shape: Tensor) -> Tensor:
        sizes = shape.tolist()
        return x.reshape([size or x.shape[axis] for axis, size in enumerate(sizes)])

    return reshape


def _softmax(options: _Options, _: _Constants, opset: int) -> Function:
    if opset >= 13:
        return lambda x: x.softmax(options.get("axis", -1))

    def flat(x: Tensor) -> Tensor:
        axis = options.get("axis", 1)
        axis += x.ndim if axis < 0 else 0
        return x.reshape(prod(x.shape[:axis]), -1).softmax(-1).reshape(x.shape)

    return flat


def _axes(options: _Options, given: _Constants, opset: int) -> Sequence[int] | None:
    """The axes of a node that names them in an attribute until opset 12, and in an input since."""
    return options.get("axes") if opset < 13 else _second(given)


def _squeeze(options: _Options, given: _Constants, opset: int) -> Function | None:
    axes = _axes(options, given, opset)
    return None if not axes else lambda x, *_: x.squeeze(tuple(axes))


def _unsqueeze(options: _Options, given: _Constants, opset: int) -> Function | None:
    axes = _axes(options, given, opset)
    if not axes:
        return None

    def unsqueeze(x: Tensor, *_: Tensor) -> Tensor:
        """Insert axes of size 1 at these positions of the result."""
        ndim = x.ndim + len(axes)
        for axis in sorted(axis % ndim for axis in axes):
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


def _transpose(options: _Options, _: _Constants, opset: int) -> Function:
    return lambda x: x.permute(options.get("perm", tuple(reversed(range(x.ndim)))))


def _second(given: _Constants) -> list[int] | None:
    return None if len(given) < 2 or given[1] is None else given[1].tolist()


def _sides(pads: Sequence[int]) -> list[int]:
    """ONNX's pads, all befores and then all afters, as torch counts them: from the last axis."""
    axes = len(pads) // 2
    return [pads[axis + side * axes] for axis in reversed(range(axes)) for side in (0, 1)]


_MADE: Mapping[str, Callable[[_Options, _Constants, int], Function | None]] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Dropout": _dropout,
    "Elu": _elu,
    "Flatten": _flatten,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky_relu,
    "MaxPool": _max_pool,
    "Pad": _pad,
    "Pow": _power,
    "ReduceMean": _reduce_mean,
    "Reshape": _reshape,
    "Softmax": _softmax,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
