"""ONNX models as files, written piece by piece, so that no second copy of the weights comes about."""

from __future__ import annotations

from collections.abc import Iterator
from glob import escape
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from decompose.models.onnx.model_file import LARGE, OnnxModel
from decompose.utils.errors import DecomposeError
from decompose.utils.files import writing

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

_MOST_BYTES = (1 << 31) - (1 << 20)
"""What one file may hold; protobuf takes no more than 2 GiB."""

_ALIGNMENT = 4096

# Numbers of fields in onnx.proto that are written by hand, with their kind: length-delimited.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW = (number << 3 | 2 for number in (7, 5, 9))


def write_model(model: OnnxModel, path: str | Path) -> None:
    """Write a model; weights go to ``PATH.data`` if they were external, or are too many for one file.

    Where such a file is there already, they go to one of another name, since a graph that still stands
    may refer to it; it is removed once the new graph stands in the old one's place.

    Raises:
        DecomposeError: the file cannot be written.
    """
    path = Path(path)
    size = model.proto.ByteSize() + sum(array.nbytes for array in model.arrays.values())
    if not model.is_external and size <= _MOST_BYTES:
        with writing(path) as temporary, temporary.open("wb") as file:
            file.writelines(_pieces(model))
        return
    data, stale = _data_paths(path)
    with writing(path) as temporary, writing(data) as beside:
        with beside.open("wb") as file:
            content = _referring(model, data.name, file)
        temporary.write_bytes(content.SerializeToString())
    for old in stale:
        old.unlink(missing_ok=True)


def model_bytes(model: OnnxModel) -> bytes:
    """A model as one file's content.

    Raises:
        DecomposeError: it is too large for one.
    """
    pieces = list(_pieces(model))
    if sum(map(len, pieces)) > _MOST_BYTES:
        raise DecomposeError("the network is too large for one ONNX file")
    return b"".join(pieces)


def to_initializer(name: str, array: np.ndarray) -> tuple[TensorProto, bool]:
    """An initialiser of an array, and whether it is a large one, whose data lies beside it."""
    from onnx import TensorProto, helper, numpy_helper

    if array.nbytes <= LARGE:
        return numpy_helper.from_array(array, name), False
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return TensorProto(name=name, data_type=kind, dims=array.shape), True


def _data_paths(path: Path) -> tuple[Path, list[Path]]:
    """Where the weights of a model go, and where those of the one that it replaces are."""
    plain = path.with_name(f"{path.name}.data")
    there = [plain] if plain.exists() else []
    there += path.parent.glob(f"{escape(path.name)}.[0-9]*.data")
    names = chain([plain], (path.with_name(f"{path.name}.{n}.data") for n in count(2)))
    return next(name for name in names if name not in there), there if path.exists() else []


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
