"""Read nodes of an ONNX graph as convolutions.

``Conv``, ``ConvTranspose``, ``Gemm`` and ``MatMul`` with constant weights are what torch calls
convolutions and fully connected layers, but for what they do at the borders: torch pads both sides of an
axis alike. The rest, zeros put before a convolution or rows cut off behind a transposed one, is kept
beside the layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from decompose.algebra import Conv, Geometry
from decompose.algebra.execution import swap_transposed_layout
from decompose.models.onnx.graph import attributes, input_names
from decompose.models.onnx.model_file import FLOATING
from decompose.utils.errors import DecomposeError

if TYPE_CHECKING:
    import onnx_ir as ir

CONVOLUTIONS = ("Conv", "ConvTranspose")

Pairs = Sequence[tuple[int, int]]
"""Pixels before and after, for each axis."""

_MOST_ELEMENTS = 1 << 26
_MOST_GROWTH = 64

_MOST_PIXELS = 1 << 20
"""Largest stride, dilation, padding or number of channels."""

_SAME = ("SAME_UPPER", "SAME_LOWER")


class Unsuitable(Exception):
    """A node is no layer that could be rewritten; the message says why."""


@dataclass(frozen=True)
class Borders:
    """Padding and cropping of a node that its layer does not do itself.

    Attributes:
        padding: zeros added before a convolution, ``(before, after)`` for each axis.
        cropping: pixels cut off behind a transposed one.
        automatic: ``SAME_UPPER`` or ``SAME_LOWER`` where the zeros depend on the input's size.
        stride: of a convolution that pads so.
        extent: pixels that its kernel covers.
    """

    padding: Pairs = ()
    cropping: Pairs = ()
    automatic: str = ""
    stride: tuple[int, ...] = ()
    extent: tuple[int, ...] = ()

    def padded(self, x: Tensor) -> Tensor:
        """Pad an input ``(batch, I, *input_size)`` for the layer."""
        pairs = self.padding
        if self.automatic:
            pairs = [
                _halves((-(-size // step) - 1) * step + extent - size, self.automatic)
                for size, step, extent in zip(x.shape[2:], self.stride, self.extent, strict=True)
            ]
        if not any(map(any, pairs)):
            return x
        sizes = [size + sum(pair) for size, pair in zip(x.shape[2:], pairs, strict=True)]
        if prod((*x.shape[:2], *sizes)) > most_elements(x.numel()):
            raise DecomposeError("its padding is too large to run")
        return F.pad(x, [width for pair in reversed(pairs) for width in pair])

    def cropped(self, y: Tensor) -> Tensor:
        """Crop the layer's output ``(batch, O, *output_size)``."""
        for axis, (before, after) in enumerate(self.cropping, start=2):
            y = y.narrow(axis, before, y.shape[axis] - before - after)
        return y


@dataclass(frozen=True, eq=False)
class Layer:
    """A node read as a layer.

    Attributes:
        conv: the convolution that it computes.
        borders: padding and cropping around it.
        weights: the names of its weight and its bias, by which equal layers are recognised.
    """

    conv: Conv
    borders: Borders
    weights: tuple[str, ...]


def most_elements(num_given: int) -> int:
    """Most elements of a value; more count as a damaged size.

    Args:
        num_given: elements of what it is made of.
    """
    return max(_MOST_ELEMENTS, _MOST_GROWTH * num_given)


def to_tensor(array: np.ndarray) -> Tensor:
    """A constant as a tensor, on the same memory where that may be written to.

    Arrays out of the graph itself may not; they are small.
    """
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def read_layer(
    node: ir.Node,
    constants: Mapping[str, np.ndarray],
    sizes: Sequence[int | None] | None = None,
) -> Layer:
    """Read a node as a layer; its tensors share the memory of the constants.

    Args:
        node: of any kind.
        constants: by name.
        sizes: of its input along the axes, where that is known.

    Raises:
        Unsuitable: it is none.
    """
    if node.domain:
        raise Unsuitable(f"it is an operator of {node.domain}")
    try:
        if node.op_type in CONVOLUTIONS:
            return _convolution(node, constants, sizes)
        if node.op_type in ("Gemm", "MatMul"):
            return _fully_connected(node, constants)
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        raise Unsuitable(f"its attributes do not fit together: {error}") from None
    raise Unsuitable("it is no convolution")


def _weight(node: ir.Node, index: int, constants: Mapping[str, np.ndarray]) -> Tensor | None:
    name = input_names(node)[index] if len(node.inputs) > index else ""
    if not name:
        return None
    what = ("input", "weight", "bias")[index]
    if name not in constants:
        raise Unsuitable(f"its {what} is computed, or given by the caller")
    array = constants[name]
    if array.dtype not in FLOATING.values():
        raise Unsuitable(f"its {what} is {array.dtype}")
    return to_tensor(array)


def _convolution(
    node: ir.Node, constants: Mapping[str, np.ndarray], sizes: Sequence[int | None] | None
) -> Layer:
    options = attributes(node)
    weight, bias = _weight(node, 1, constants), _weight(node, 2, constants)
    assert weight is not None
    num_axes, groups = weight.ndim - 2, options.get("group", 1)
    if not 1 <= num_axes <= 3:
        raise Unsuitable(f"it has {num_axes} axes")
    taps = tuple(weight.shape[2:])
    if tuple(options.get("kernel_shape", taps)) != taps:
        raise Unsuitable("its kernel has another shape than it says")
    stride, dilation = (
        tuple(options.get(name, (1,) * num_axes)) for name in ("strides", "dilations")
    )
    steps = (*weight.shape, *stride, *dilation, groups)
    if not 0 < min(steps) <= max(steps) <= _MOST_PIXELS:
        raise Unsuitable("it has an attribute that is out of all bounds")
    if options.get("auto_pad", "NOTSET") not in (*_SAME, "NOTSET", "VALID"):
        raise Unsuitable(f"it has an auto_pad of {options['auto_pad']}")
    geometry = Geometry(stride, ((0, 0),) * num_axes, dilation)
    extent = tuple(d * (k - 1) + 1 for d, k in zip(dilation, taps, strict=True))
    if node.op_type == "Conv":
        geometry, borders = _padding(options, geometry, extent)
    else:
        geometry, borders = _cropping(options, geometry, extent, sizes)
        weight = swap_transposed_layout(weight, groups)
    return Layer(Conv(weight, bias, geometry, groups), borders, tuple(input_names(node)[1:]))


def _padding(
    options: Mapping[str, Any], geometry: Geometry, extent: tuple[int, ...]
) -> tuple[Geometry, Borders]:
    """Split padding into torch's and the rest."""
    automatic = options.get("auto_pad", "NOTSET")
    if automatic in _SAME:
        return geometry, Borders(automatic=automatic, stride=geometry.stride, extent=extent)
    pairs = ((0, 0),) * len(extent) if automatic == "VALID" else _pairs(options, len(extent))
    alike = [min(pair) for pair in pairs]
    rest = [(before - w, after - w) for (before, after), w in zip(pairs, alike, strict=True)]
    geometry = replace(geometry, padding=tuple((width, width) for width in alike))
    return geometry, Borders(rest if any(map(any, rest)) else ())


def _cropping(
    options: Mapping[str, Any],
    geometry: Geometry,
    extent: tuple[int, ...],
    sizes: Sequence[int | None] | None,
) -> tuple[Geometry, Borders]:
    """Split cropping into that of torch's transposed convolution and the rest."""
    extra = list(options.get("output_padding", (0,) * len(extent)))
    steps = geometry.stride
    if any(e >= max(s, d) for e, s, d in zip(extra, steps, geometry.dilation, strict=True)):
        raise Unsuitable("its output is padded by its stride or more")
    beyond = [e + m - s for e, m, s in zip(extent, extra, steps, strict=True)]
    padding, rest = [], []
    for axis, (before, after) in enumerate(_cuts(options, geometry, beyond, sizes)):
        alike = min(before, after)
        if 0 < before - after < steps[axis] - extra[axis]:
            # The same as to cut off more at both ends, and to ask for some back at the second.
            extra[axis] += before - after
            alike = after = before
        if alike < 0:
            raise Unsuitable("it gives more than its kernel reaches")
        padding.append((alike, alike))
        rest.append((before - alike, after - alike))
    geometry = replace(
        geometry, padding=tuple(padding), output_padding=tuple(extra), transposed=True
    )
    return geometry, Borders(cropping=rest if any(map(any, rest)) else ())


def _cuts(
    options: Mapping[str, Any],
    geometry: Geometry,
    beyond: Sequence[int],
    sizes: Sequence[int | None] | None,
) -> Pairs:
    """The pixels that a transposed convolution cuts off in all.

    Args:
        options: its attributes.
        geometry: its stride.
        beyond: by how much its outputs reach beyond stride times the inputs.
        sizes: of its input.
    """
    automatic, wanted = options.get("auto_pad", "NOTSET"), options.get("output_shape")
    if wanted:
        if sizes is None or None in sizes:
            raise Unsuitable("what it cuts off depends on its input's size")
        wanted = wanted[-len(beyond) :]
        full = [n * s for n, s in zip(sizes, geometry.stride, strict=True) if n is not None]
        totals = [f + b - w for f, b, w in zip(full, beyond, wanted, strict=True)]
    elif automatic in _SAME:
        totals = list(beyond)
        # ONNX Runtime then gives less than stride times the inputs.
        if min(totals) < 0:
            raise Unsuitable("its stride is longer than its kernel")
    elif automatic == "VALID":
        return ((0, 0),) * len(beyond)
    else:
        return _pairs(options, len(beyond))
    return [(0, t) if t < 0 else _halves(t, automatic) for t in totals]


def _pairs(options: Mapping[str, Any], num_axes: int) -> Pairs:
    pads = options.get("pads", (0,) * 2 * num_axes)
    if len(pads) != 2 * num_axes or not 0 <= min(pads) <= max(pads) <= _MOST_PIXELS:
        raise Unsuitable("its pads are not two numbers of pixels for each axis")
    return tuple(zip(pads[:num_axes], pads[num_axes:], strict=True))


def _halves(total: int, automatic: str) -> tuple[int, int]:
    """Split pixels between both sides, the odd one behind for ``SAME_UPPER``, else before."""
    less, more = max(total, 0) // 2, (max(total, 0) + 1) // 2
    return (less, more) if automatic == "SAME_UPPER" else (more, less)


def _fully_connected(node: ir.Node, constants: Mapping[str, np.ndarray]) -> Layer:
    options = attributes(node)
    weight = _weight(node, 1, constants)
    if weight is None or weight.ndim != 2 or 0 in weight.shape:
        raise Unsuitable("its weight is no matrix")
    if node.op_type == "MatMul":
        return Layer(Conv(weight.T), Borders(), tuple(input_names(node)[1:]))
    if options.get("transA") or options.get("alpha", 1.0) != 1 or options.get("beta", 1.0) != 1:
        raise Unsuitable("it transposes its input or scales")
    weight, bias = weight if options.get("transB") else weight.T, _weight(node, 2, constants)
    if bias is not None:
        bias = bias.broadcast_to(1, len(weight)).flatten().contiguous()
    return Layer(Conv(weight, bias), Borders(), tuple(input_names(node)[1:]))
