"""What an ONNX graph takes, and how large its values are, before anything runs."""

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
    from onnx import ModelProto, ValueInfoProto

_COLOURS = (1, 3)
_LEAST_SIDE = 8
"""Of a picture; an axis of fewer places may be that of channels."""

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
    """The input of a network.

    Attributes:
        name: in the graph.
        dtype: that the graph asks for.
        dims: in the graph's order.
        is_channels_last: whether it takes pictures as ``(batch, H, W, C)``.
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
                raise DecomposeError(f"an input of {len(dims) - 1} axes is no picture")
            if any(d not in (None, s) for d, s in zip(dims[1:], size, strict=True)):
                told = "x".join("N" if d is None else str(d) for d in dims[1:])
                raise DecomposeError(f"the network takes inputs of {told} pixels and no others")
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
        """An input ``(batch, C, *size)`` as the graph takes it."""
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
    graph = model.proto.graph
    inner = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in inner]
    if unknown := sorted({*fixed} - {value.name for value in inputs}):
        raise DecomposeError(f"the model has no input {unknown[0]}; there are: {_names(inputs)}")
    free = [value for value in inputs if value.name not in {*fixed}]
    if len(free) != 1:
        raise DecomposeError(
            f"the model has {len(free)} inputs ({_names(free)}); all but one must be fixed: "
            "--fix NAME=NUMBER"
        )
    value = free[0]
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        raise DecomposeError(f"the input {value.name} is no tensor of a known number of axes")
    dims = dims_of(value)
    if len(dims) < 2:
        raise DecomposeError(f"the input {value.name} is no batch")
    for dim in value.type.tensor_type.shape.dim:
        # Old exporters write -1 for what is open.
        if dim.HasField("dim_value") and dim.dim_value == 0:
            raise DecomposeError(f"the input {value.name} has an axis of no places")
    if dims[0] not in (None, 1):
        # Constants in the graph may be of that batch, and rows get mixed where it is another.
        raise DecomposeError(
            f"the input {value.name} is a batch of {dims[0]} and no other; export the model with a "
            "batch of 1, or of any size"
        )
    last = len(dims) == 4 and dims[-1] in _COLOURS and (dims[1] or _LEAST_SIDE) >= _LEAST_SIDE
    return Signature(value.name, _dtype(value), dims, last)


def fixed_inputs(model: OnnxModel, given: Mapping[str, Tensor | float]) -> dict[str, Tensor]:
    """What inputs are always given, as tensors of their types.

    Args:
        model: it has these inputs.
        given: by name, a tensor, or a number that fills one; sizes that are open are 1 then.

    Raises:
        DecomposeError: an input is no tensor of numbers.
    """
    inputs = {value.name: value for value in model.proto.graph.input}
    found = {}
    for name, what in given.items():
        if isinstance(what, Tensor):
            found[name] = what.to(_dtype(inputs[name]))
        else:
            shape = [1 if size is None else size for size in dims_of(inputs[name])]
            if prod(shape) > most_elements(0):
                raise DecomposeError(f"the input {name} is too large to run")
            found[name] = torch.full(shape, what).to(_dtype(inputs[name]))
    return found


def _dtype(value: ValueInfoProto) -> torch.dtype:
    from onnx import helper

    kind = value.type.tensor_type.elem_type
    known = kind in helper.get_all_tensor_dtypes()
    dtype = getattr(torch, helper.tensor_dtype_to_np_dtype(kind).name if known else "", None)
    if not isinstance(dtype, torch.dtype):
        raise DecomposeError(f"the input {value.name} is no tensor of numbers")
    return dtype


def dims_of(value: ValueInfoProto) -> Dims:
    """The sizes that a graph tells of a value; those with a name or none are open."""
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
        for dim in value.type.tensor_type.shape.dim
    )


def infer_types(
    model: OnnxModel, given: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Value]:
    """The types of a model's values, as far as they follow from those of its inputs.

    Args:
        model: the model.
        given: shapes of inputs, in place of those that the graph tells.

    Raises:
        DecomposeError: they contradict one another, or a value is far too large.
    """
    proto = model.without_weights()
    for value in proto.graph.input:
        if given is not None and value.name in given:
            shape = value.type.tensor_type.shape
            shape.ClearField("dim")
            for size in given[value.name]:
                shape.dim.add().dim_value = size
    inner = {*model.arrays, *(tensor.name for tensor in proto.graph.initializer)}
    sizes = [prod(n or 1 for n in dims_of(v)) for v in proto.graph.input if v.name not in inner]
    most = most_elements(sum(sizes))
    found = {}
    for value in infer_values(proto):
        kind = value.type.tensor_type
        dims = dims_of(value) if kind.HasField("shape") else None
        found[value.name] = Value(kind.elem_type, dims)
        if dims is None or value.name in inner:
            continue
        if prod(dim or 1 for dim in dims) > most:
            told = "x".join(str(dim or "N") for dim in dims)
            raise DecomposeError(
                f"the value {value.name} would be {told}, which is too large to run"
            )
    return found


def infer_values(proto: ModelProto) -> list[ValueInfoProto]:
    """Inputs, values and outputs of a model, with the shapes that follow.

    Raises:
        DecomposeError: they contradict one another.
    """
    from onnx import shape_inference

    try:
        graph = shape_inference.infer_shapes(proto, data_prop=True).graph
    except (shape_inference.InferenceError, RuntimeError, ValueError, TypeError) as error:
        raise DecomposeError(f"its shapes contradict one another: {first_line(error)}") from None
    return [*graph.input, *graph.value_info, *graph.output]


def _names(values: Iterable[ValueInfoProto]) -> str:
    return ", ".join(value.name for value in values) or "none"
