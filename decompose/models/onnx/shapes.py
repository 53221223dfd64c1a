"""Infer an ONNX graph's signature and the shapes of its values, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decompose.models.onnx.layers import most_elements
from decompose.models.onnx.model_file import OnnxModel
from decompose.utils.errors import DecomposeError, first_line

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx import ModelProto

_COLOURS = (1, 3)
_LEAST_SIDE = 8
"""Least pixels of an image's axis; a shorter axis may be that of channels."""

Dims = tuple[int | None, ...]
"""Sizes along each axis; ``None`` where any will do."""


@dataclass(frozen=True)
class Value:
    """The type of a value.

    Attributes:
        kind: of its elements, a number of ``TensorProto.DataType``.
        dims: ``None`` where its number of axes is not known.
    """

    kind: int
    dims: Dims | None


@dataclass(frozen=True)
class Signature:
    """The input of a model.

    Attributes:
        name: in the graph.
        dtype: that the graph asks for.
        dims: in the graph's order.
        is_channels_last: whether it takes images as ``(batch, H, W, C)``.
    """

    name: str
    dtype: torch.dtype
    dims: Dims
    is_channels_last: bool

    @property
    def batch(self) -> int | None:
        """Inputs at a time: 1, or ``None`` for any number."""
        return self.dims[0]

    @property
    def channels_first(self) -> Dims:
        """The sizes along ``C, *size``."""
        return self._order(self.dims)[1:]

    def shape(self, size: Sequence[int] | None = None) -> tuple[int, ...]:
        """Shape of an input without its batch axis, channels first.

        Args:
            size: in pixels, where the graph leaves that open.

        Raises:
            DecomposeError: a size is missing, or is not the graph's.
        """
        dims = list(self.channels_first)
        if size is not None:
            if len(size) != len(dims) - 1:
                raise DecomposeError(f"an input of {len(dims) - 1} axes is no image")
            if any(d not in (None, s) for d, s in zip(dims[1:], size, strict=True)):
                required = "x".join("N" if d is None else str(d) for d in dims[1:])
                raise DecomposeError(f"the model takes inputs of {required} pixels only")
            dims[1:] = size
        known = [dim for dim in dims if dim is not None]
        if len(known) < len(dims):
            raise DecomposeError(
                f"the graph leaves the size of its input {self.name} open; give --input-size"
            )
        if prod(known) > most_elements(0):
            raise DecomposeError(f"an input of {'x'.join(map(str, known))} is too large to run")
        return tuple(known)

    def arranged(self, x: Tensor) -> Tensor:
        """Arrange an input ``(batch, C, *size)`` as the graph takes it."""
        return (x.movedim(1, -1) if self.is_channels_last else x).to(self.dtype)

    def _order(self, dims: Dims) -> Dims:
        return (dims[0], dims[-1], *dims[1:-1]) if self.is_channels_last else dims


def signature_of(model: OnnxModel, fixed: Iterable[str] = ()) -> Signature:
    """The signature of a model's input.

    Args:
        model: the model.
        fixed: inputs that are always given the same.

    Raises:
        DecomposeError: it has none, several, one that is no tensor of numbers or no batch, or one that
            holds a fixed number of inputs other than 1.
    """
    inputs = [value for value in model.content.graph.inputs if not value.is_initializer()]
    if unknown := sorted({*fixed} - {str(value.name) for value in inputs}):
        raise DecomposeError(f"the model has no input {unknown[0]}; there are: {_names(inputs)}")
    free = [value for value in inputs if value.name not in {*fixed}]
    if len(free) != 1:
        raise DecomposeError(
            f"the model has {len(free)} inputs ({_names(free)}); all but one must be fixed: "
            "--fix NAME=NUMBER"
        )
    value = free[0]
    found = _value(value)
    if found is None or found.dims is None or value.shape is None:
        raise DecomposeError(f"the input {value.name} is no tensor of a known number of axes")
    dims = found.dims
    if len(dims) < 2:
        raise DecomposeError(f"the input {value.name} is no batch")
    if 0 in tuple(value.shape):
        raise DecomposeError(f"the input {value.name} has an axis of size 0")
    if dims[0] not in (None, 1):
        # Constants in the graph may be of that batch, and rows get mixed where it is another.
        raise DecomposeError(
            f"the input {value.name} is a batch of {dims[0]} and no other; export the model with a "
            "batch of 1, or of any size"
        )
    last = len(dims) == 4 and dims[-1] in _COLOURS and (dims[1] or _LEAST_SIDE) >= _LEAST_SIDE
    return Signature(str(value.name), _dtype(value), dims, last)


def fixed_inputs(model: OnnxModel, given: Mapping[str, Tensor | float]) -> dict[str, Tensor]:
    """Constants of the fixed inputs, as tensors of their types.

    Args:
        model: it has these inputs.
        given: by name, a tensor, or a number that fills one; sizes that are open are 1 then.

    Raises:
        DecomposeError: an input is no tensor of numbers.
    """
    inputs = {value.name: value for value in model.content.graph.inputs}
    found = {}
    for name, what in given.items():
        if isinstance(what, Tensor):
            found[name] = what.to(_dtype(inputs[name]))
        else:
            shape = [1 if size is None else size for size in _dims(inputs[name]) or ()]
            if prod(shape) > most_elements(0):
                raise DecomposeError(f"the input {name} is too large to run")
            found[name] = torch.full(shape, what).to(_dtype(inputs[name]))
    return found


def _dtype(value: ir.Value) -> torch.dtype:
    try:
        assert value.dtype is not None
        dtype = getattr(torch, value.dtype.numpy().name, None)
    except (AssertionError, TypeError):
        dtype = None
    if not isinstance(dtype, torch.dtype):
        raise DecomposeError(f"the input {value.name} is no tensor of numbers")
    return dtype


def _value(value: ir.Value) -> Value | None:
    """The type of a value, or ``None`` where it is no tensor or its type is not known."""
    import onnx_ir as ir

    return Value(value.type.dtype, _dims(value)) if isinstance(value.type, ir.TensorType) else None


def _dims(value: ir.Value) -> Dims | None:
    """The sizes of a value; those with a name or none are open, as -1 is in old exporters' files."""
    if value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) and dim > 0 else None for dim in value.shape)


def infer_types(
    model: OnnxModel, given: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Value]:
    """The types of a model's values, as far as they follow from those of its inputs.

    Args:
        model: the model.
        given: shapes of inputs, instead of the graph's own.

    Raises:
        DecomposeError: they contradict one another, or a value is far too large.
    """
    proto, inner = model.without_weights(given), model.content.graph.initializers
    found = {}
    for value in infer_values(proto):
        if (known := _value(value)) is not None:
            found[str(value.name)] = known
    given_names = [value.name for value in proto.graph.input if value.name not in inner]
    most = most_elements(sum(_num_elements(found[name]) for name in given_names if name in found))
    for name, known in found.items():
        if name not in inner and _num_elements(known) > most:
            shape = "x".join(str(dim or "N") for dim in known.dims or ())
            raise DecomposeError(f"the value {name} would be {shape}, which is too large to run")
    return found


def _num_elements(value: Value) -> int:
    """The elements that a value has at least."""
    return prod(dim or 1 for dim in value.dims or ())


def infer_values(proto: ModelProto) -> list[ir.Value]:
    """Inputs, values and outputs of a model, with the shapes that follow.

    Raises:
        DecomposeError: they contradict one another.
    """
    import onnx_ir as ir
    from onnx import shape_inference

    try:
        graph = shape_inference.infer_shapes(proto, data_prop=True).graph
        return [ir.from_proto(value) for value in (*graph.input, *graph.value_info, *graph.output)]
    except (shape_inference.InferenceError, RuntimeError, ValueError, TypeError) as error:
        raise DecomposeError(f"its shapes contradict one another: {first_line(error)}") from None


def _names(values: Iterable[ir.Value]) -> str:
    return ", ".join(str(value.name) for value in values) or "none"
