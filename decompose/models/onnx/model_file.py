"""ONNX files: the graph, and its weights beside it, each in memory once.

A model in memory is a ``ModelProto`` whose large initialisers hold no data, and the arrays that these
stand for, mapped from the disk where they lie in files of their own. It is written piece by piece, so
that no second copy of the weights comes about.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from decompose.utils.errors import DecomposeError, first_line
from decompose.utils.optional_dependencies import required

if TYPE_CHECKING:
    from onnx import TensorProto


if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

LARGE = 1024
"""An initialiser of more bytes than this lies beside the graph."""

DOMAINS = ("", "ai.onnx")
"""Of ONNX's own operators."""

FLOATING: Mapping[int, np.dtype] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}
"""The floating types that torch has as well, as they are stored, by ``TensorProto.DataType``."""

_LEAST_OPSET = 7


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """A model in memory; never changed, so that copies of a network share it.

    Attributes:
        proto: all but the data of large initialisers.
        arrays: the data of these, by name.
        is_external: whether its file keeps weights in other files.
    """

    proto: ModelProto
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    is_external: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxModel:
        return self

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return next(o.version for o in self.proto.opset_import if o.domain in DOMAINS)

    def without_weights(self) -> ModelProto:
        """A model whose large weights are inputs: small, valid, and of the same shapes."""
        from onnx import helper

        proto = type(self.proto)()
        proto.CopyFrom(self.proto)
        graph = proto.graph
        declared = {value.name for value in graph.input}
        kept = [tensor for tensor in graph.initializer if tensor.name not in self.arrays]
        for tensor in graph.initializer:
            if tensor.name in self.arrays and tensor.name not in declared:
                graph.input.append(
                    helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                )
        del graph.initializer[:]
        graph.initializer.extend(kept)
        return proto


def read_model(path: str | Path) -> OnnxModel:
    """Read a model, with the external data that lies beside it, and check it.

    Raises:
        DecomposeError: onnx is not installed, there is no such file, or it is damaged, invalid or too
            old.
    """
    path = Path(path)
    required("onnx", "ONNX", "onnx")
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        kind = "is a folder, not a file" if path.is_dir() else "no such file"
        raise DecomposeError(f"{path}: {kind}")
    proto = onnx.ModelProto()
    try:
        with path.open("rb") as file, _mapped(file) as content:
            proto.ParseFromString(content)  # type: ignore[arg-type]
    except (DecodeError, OSError, ValueError) as error:
        raise DecomposeError(f"{path}: is damaged or no ONNX file: {first_line(error)}") from None
    try:
        model = _detached(proto, path)
        check_model(model)
    except DecomposeError as error:
        raise DecomposeError(f"{path}: {error}") from None
    return model


def check_model(model: OnnxModel) -> None:
    """Check a model against ONNX's rules, and that its opset is one that is known here.

    Raises:
        DecomposeError: it is not.
    """
    from onnx import checker

    versions = [o.version for o in model.proto.opset_import if o.domain in DOMAINS]
    if not versions:
        raise DecomposeError("names no version of ONNX's operators")
    if min(versions) < _LEAST_OPSET:
        raise DecomposeError(
            f"is of opset {min(versions)}; {_LEAST_OPSET} is the least: convert it with "
            "onnx.version_converter"
        )
    try:
        checker.check_model(model.without_weights())
    # What it raises besides on damaged models has no base of its own.
    except (checker.ValidationError, RuntimeError, ValueError, TypeError) as error:
        raise DecomposeError(f"is no valid model: {first_line(error)}") from None


@contextmanager
def _mapped(file: Any) -> Iterator[memoryview]:
    """A file's content without a copy."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        try:
            yield view
        finally:
            view.release()


def _detached(proto: ModelProto, path: Path) -> OnnxModel:
    """Part the model of a file and its large weights."""
    from onnx import TensorProto

    arrays: dict[str, np.ndarray] = {}
    is_external = False
    for tensor in proto.graph.initializer:
        external = tensor.data_location == TensorProto.EXTERNAL
        is_external |= external
        size = len(tensor.raw_data) or 4 * (len(tensor.float_data) + len(tensor.int32_data))
        if tensor.data_type not in FLOATING or not (external or size > LARGE):
            continue
        if tensor.name in arrays:
            raise DecomposeError(f"the initialiser {tensor.name} is there twice")
        kind = FLOATING[tensor.data_type]
        array = external_array(tensor, kind, path) if external else _array(tensor, kind)
        arrays[tensor.name] = array
    # What is still external lies in attributes or is not floating, and is seldom large.
    for tensor in _tensors(proto.graph):
        if tensor.data_location == TensorProto.EXTERNAL and tensor.name not in arrays:
            tensor.raw_data = external_bytes(tensor, path)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
    # Memory that a message once held is freed with the whole message, not before.
    slim = type(proto)()
    for tensor in proto.graph.initializer:
        if tensor.name in arrays:
            for name in ("raw_data", "float_data", "int32_data", "double_data", "data_location"):
                tensor.ClearField(name)
            del tensor.external_data[:]
    slim.CopyFrom(proto)
    return OnnxModel(slim, arrays, is_external)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies that a node holds, such as the branches of an ``If``."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for body in subgraphs(node):
            yield from _tensors(body)


def _array(tensor: TensorProto, kind: np.dtype) -> np.ndarray:
    """The data of an initialiser, its own copy."""
    from onnx import numpy_helper

    if not tensor.HasField("raw_data"):
        try:
            return np.array(numpy_helper.to_array(tensor), kind)
        except (ValueError, TypeError) as error:
            raise DecomposeError(f"the initialiser {tensor.name}: {first_line(error)}") from None
    require_size(tensor, len(tensor.raw_data), kind)
    return np.frombuffer(bytearray(tensor.raw_data), kind).reshape(tensor.dims)


def external_array(tensor: TensorProto, kind: np.dtype, model: Path) -> np.ndarray:
    """The data of a tensor in a file, mapped; what is written to it never gets there.

    Args:
        tensor: it says where its data lies.
        kind: of its elements.
        model: the file that it is of.

    Raises:
        DecomposeError: the data lies outside the model's folder, or is not as long as it should be.
    """
    path, offset, length = _place(tensor, model)
    require_size(tensor, length, kind)
    if length == 0:
        return np.zeros(tuple(tensor.dims), kind)
    # Copy on write: the file stays what it is.
    mapped = np.memmap(path, kind, "c", offset, tuple(tensor.dims))
    return np.asarray(mapped) if offset % kind.itemsize == 0 else np.array(mapped)


def external_bytes(tensor: TensorProto, model: Path) -> bytes:
    """The data of a tensor in a file, as it lies there.

    Raises:
        DecomposeError: as ``external_array``.
    """
    path, offset, length = _place(tensor, model)
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _place(tensor: TensorProto, model: Path) -> tuple[Path, int, int]:
    """File, offset and length of external data.

    Where model and data are links, as in the cache of the Hugging Face hub, it may also lie beside what
    the model's link leads to.

    Raises:
        DecomposeError: it lies outside the model's folder, or the file does not hold it.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    what = f"the external data of {tensor.name}"
    try:
        location = Path(entries.get("location", ""))
        path = (model.parent / location).resolve(strict=True)
        homes = model.parent.resolve(), model.resolve().parent
        leaves = location.is_absolute() or ".." in location.parts
        if leaves or not any(map(path.is_relative_to, homes)) or not path.is_file():
            raise DecomposeError(f"{what} is to lie in the model's own folder")
        size = path.stat().st_size
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", size - offset))
    except (OSError, ValueError) as error:
        if isinstance(error, DecomposeError):
            raise
        raise DecomposeError(f"{what} cannot be read: {first_line(error)}") from None
    if not 0 <= offset <= offset + length <= size:
        raise DecomposeError(f"{what} reaches beyond the end of {path.name}")
    return path, offset, length


def require_size(tensor: TensorProto, num_bytes: int, kind: np.dtype) -> None:
    """Check that data is as long as its shape says.

    Raises:
        DecomposeError: it is not.
    """
    if min(tensor.dims, default=1) < 0 or prod(tensor.dims) * kind.itemsize != num_bytes:
        raise DecomposeError(
            f"the initialiser {tensor.name} has {num_bytes} bytes, which are not those of shape "
            f"{tuple(tensor.dims)}"
        )
