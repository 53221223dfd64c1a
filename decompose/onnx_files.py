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

from decompose.errors import DecomposeError, first_line
from decompose.files import writing

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

LARGE = 1024
"""Bytes from which an initialiser lies beside the graph."""

_MOST_BYTES = (1 << 31) - (1 << 20)
"""What one file may hold; protobuf takes no more than 2 GiB."""

_LEAST_OPSET = 7
_ALIGNMENT = 4096

# Numbers of fields in onnx.proto that are written by hand, with their kind: length-delimited.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW = (number << 3 | 2 for number in (7, 5, 9))


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
        return next(o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx"))

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
    with onnx_required():
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
        model = _detached(proto, path.parent)
        check_model(model)
    except DecomposeError as error:
        raise DecomposeError(f"{path}: {error}") from None
    return model


def write_model(model: OnnxModel, path: str | Path) -> None:
    """Write a model; weights go to ``PATH.data`` if they were external, or are too many for one file.

    Raises:
        DecomposeError: the file cannot be written.
    """
    path = Path(path)
    size = model.proto.ByteSize() + sum(array.nbytes for array in model.arrays.values())
    if not model.is_external and size <= _MOST_BYTES:
        with writing(path) as temporary, temporary.open("wb") as file:
            file.writelines(_pieces(model))
        return
    data = path.with_name(path.name + ".data")
    with writing(path) as temporary, writing(data) as beside:
        with beside.open("wb") as file:
            content = _referring(model, data.name, file)
        temporary.write_bytes(content.SerializeToString())


def model_bytes(model: OnnxModel) -> bytes:
    """A model as one file's content.

    Raises:
        DecomposeError: it is too large for one.
    """
    pieces = list(_pieces(model))
    if sum(map(len, pieces)) > _MOST_BYTES:
        raise DecomposeError("the network is too large for one ONNX file")
    return b"".join(pieces)


def check_model(model: OnnxModel) -> None:
    """Check a model against ONNX's rules, and that its opset is one that is known here.

    Raises:
        DecomposeError: it is not.
    """
    from onnx import checker

    versions = [o.version for o in model.proto.opset_import if o.domain in ("", "ai.onnx")]
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


def to_initializer(name: str, array: np.ndarray) -> tuple[TensorProto, bool]:
    """An initialiser of an array, and whether it is a large one, whose data lies beside it."""
    from onnx import TensorProto, helper, numpy_helper

    if array.nbytes <= LARGE:
        return numpy_helper.from_array(array, name), False
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return TensorProto(name=name, data_type=kind, dims=array.shape), True


@contextmanager
def onnx_required() -> Iterator[None]:
    """Name the extra that brings a package which is not there.

    Raises:
        DecomposeError: in place of ``ModuleNotFoundError``.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise DecomposeError(
            f"ONNX files need {error.name}: pip install 'decompose[onnx]'"
        ) from None


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies that a node holds, such as the branches of an ``If``."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


@contextmanager
def _mapped(file: Any) -> Iterator[memoryview]:
    """A file's content without a copy."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        try:
            yield view
        finally:
            view.release()


def _detached(proto: ModelProto, folder: Path) -> OnnxModel:
    """Part a model and its large weights."""
    from onnx import TensorProto

    floating: dict[int, str] = {
        TensorProto.FLOAT: "<f4",
        TensorProto.FLOAT16: "<f2",
        TensorProto.DOUBLE: "<f8",
    }
    arrays: dict[str, np.ndarray] = {}
    is_external = False
    for tensor in proto.graph.initializer:
        external = tensor.data_location == TensorProto.EXTERNAL
        is_external |= external
        size = len(tensor.raw_data) or 4 * (len(tensor.float_data) + len(tensor.int32_data))
        if tensor.data_type not in floating or not (external or size > LARGE):
            continue
        if tensor.name in arrays:
            raise DecomposeError(f"the initialiser {tensor.name} is there twice")
        kind = np.dtype(floating[tensor.data_type])
        array = _external(tensor, kind, folder) if external else _array(tensor, kind)
        arrays[tensor.name] = array
    # What is still external lies in attributes or is not floating, and is seldom large.
    for tensor in _tensors(proto.graph):
        if tensor.data_location == TensorProto.EXTERNAL and tensor.name not in arrays:
            tensor.raw_data = _external_bytes(tensor, folder)
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
    _require_size(tensor, len(tensor.raw_data), kind)
    return np.frombuffer(bytearray(tensor.raw_data), kind).reshape(tensor.dims)


def _external(tensor: TensorProto, kind: np.dtype, folder: Path) -> np.ndarray:
    """The data of an initialiser in a file, mapped."""
    path, offset, length = _place(tensor, folder)
    _require_size(tensor, length, kind)
    if length == 0:
        return np.zeros(tuple(tensor.dims), kind)
    # Copy on write: the file stays what it is.
    mapped = np.memmap(path, kind, "c", offset, tuple(tensor.dims))
    return np.asarray(mapped) if offset % kind.itemsize == 0 else np.array(mapped)


def _external_bytes(tensor: TensorProto, folder: Path) -> bytes:
    path, offset, length = _place(tensor, folder)
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _place(tensor: TensorProto, folder: Path) -> tuple[Path, int, int]:
    """File, offset and length of external data.

    Raises:
        DecomposeError: it lies outside the model's folder, or the file does not hold it.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    what = f"the external data of {tensor.name}"
    try:
        root = folder.resolve(strict=True)
        path = (root / entries.get("location", "")).resolve(strict=True)
        if not path.is_relative_to(root) or not path.is_file():
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


def _require_size(tensor: TensorProto, num_bytes: int, kind: np.dtype) -> None:
    if min(tensor.dims, default=1) < 0 or prod(tensor.dims) * kind.itemsize != num_bytes:
        raise DecomposeError(
            f"the initialiser {tensor.name} has {num_bytes} bytes, which are not those of shape "
            f"{tuple(tensor.dims)}"
        )


def _pieces(model: OnnxModel) -> Iterator[bytes | memoryview]:
    """A model's content, an array at a time.

    A message is a sequence of fields in any order, so the weights may follow all else.
    """
    head = type(model.proto)()
    head.CopyFrom(model.proto)
    graph = head.graph
    large = [t for t in graph.initializer if t.name in model.arrays]
    stubs = [tensor.SerializeToString() for tensor in large]
    kept = [tensor for tensor in graph.initializer if tensor.name not in model.arrays]
    tails = [_TENSOR_RAW.to_bytes(1) + _varint(model.arrays[t.name].nbytes) for t in large]
    names = [tensor.name for tensor in large]
    lengths = [
        len(stub) + len(tail) + model.arrays[name].nbytes
        for stub, tail, name in zip(stubs, tails, names, strict=True)
    ]
    openings = [_GRAPH_INITIALIZER.to_bytes(1) + _varint(length) for length in lengths]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    inner = graph.SerializeToString()
    head.ClearField("graph")
    yield head.SerializeToString()
    whole = len(inner) + sum(map(len, openings)) + sum(lengths)
    yield _MODEL_GRAPH.to_bytes(1) + _varint(whole)
    yield inner
    for opening, stub, tail, name in zip(openings, stubs, tails, names, strict=True):
        yield opening + stub + tail
        yield _flat(model.arrays[name])


def _referring(model: OnnxModel, location: str, file: Any) -> ModelProto:
    """Write the arrays to a file, and give the model that refers to them there."""
    from onnx import TensorProto

    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    for tensor in proto.graph.initializer:
        if tensor.name not in model.arrays:
            continue
        array = model.arrays[tensor.name]
        file.seek(-(-file.tell() // _ALIGNMENT) * _ALIGNMENT)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": location, "offset": file.tell(), "length": array.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        file.write(_flat(array))
    return proto


def _flat(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _varint(number: int) -> bytes:
    """A number in protobuf's encoding: seven bits a byte, the last one without the highest bit."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])
