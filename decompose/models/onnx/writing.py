"""Write ONNX models piece by piece, without a second copy of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from glob import escape
from itertools import chain, count
from pathlib import Path

import numpy as np

from decompose.models.onnx.model_file import LARGE, OnnxModel, array_of
from decompose.utils.errors import DecomposeError
from decompose.utils.files import writing, writing_together

_MAX_BYTES = (1 << 31) - (1 << 20)
"""Most bytes of one file; protobuf takes no more than 2 GiB."""

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
    import onnx_ir as ir

    path = Path(path)
    size = sum(array_of(value).nbytes for value in model.content.graph.initializers.values())
    if not model.is_external and size <= _MAX_BYTES:
        with writing(path) as temporary, temporary.open("wb") as file:
            file.writelines(_pieces(model))
        return
    data, stale = _data_paths(path)
    with writing_together() as outputs:
        outputs.unless_written(partial(data.unlink, missing_ok=True))
        with writing(path) as temporary:
            ir.save(
                model.content,
                temporary,
                format="protobuf",
                external_data=data.name,
                size_threshold_bytes=LARGE,
                alignment=_ALIGNMENT,
            )
        for old in stale:
            outputs.when_written(partial(old.unlink, missing_ok=True))


def model_bytes(model: OnnxModel) -> bytes:
    """The content of a model's file.

    Raises:
        DecomposeError: it is too large for one.
    """
    pieces = list(_pieces(model))
    if sum(map(len, pieces)) > _MAX_BYTES:
        raise DecomposeError("the model is too large for one ONNX file")
    return b"".join(pieces)


def _data_paths(path: Path) -> tuple[Path, list[Path]]:
    """Paths of the weights of a model, and of the model that it replaces."""
    plain = path.with_name(f"{path.name}.data")
    there = [plain] if plain.exists() else []
    there += path.parent.glob(f"{escape(path.name)}.[0-9]*.data")
    names = chain([plain], (path.with_name(f"{path.name}.{n}.data") for n in count(2)))
    return next(name for name in names if name not in there), there if path.exists() else []


def _pieces(model: OnnxModel) -> Iterator[bytes | memoryview]:
    """A model's content, an array at a time.

    A message is a sequence of fields in any order, so the weights may follow all else.
    """
    import onnx_ir as ir
    from onnx import TensorProto

    large = model.weights
    stubs = []
    for name, value in large.items():
        tensor = value.const_value
        assert tensor is not None
        stub = TensorProto(
            name=name,
            data_type=tensor.dtype.value,
            dims=tensor.shape.numpy(),
            doc_string=tensor.doc_string or None,
        )
        tail = _TENSOR_RAW.to_bytes(1) + _varint(tensor.nbytes)
        stubs.append(stub.SerializeToString() + tail)
    content = model.content.clone()
    for name in large:
        content.graph.initializers.pop(name)
    head = ir.to_proto(content)
    inner = head.graph.SerializeToString()
    head.ClearField("graph")
    data = [_flat(array_of(value)) for value in large.values()]
    heads = [
        _GRAPH_INITIALIZER.to_bytes(1) + _varint(len(stub) + len(array)) + stub
        for stub, array in zip(stubs, data, strict=True)
    ]
    yield head.SerializeToString()
    whole = len(inner) + sum(map(len, heads)) + sum(map(len, data))
    yield _MODEL_GRAPH.to_bytes(1) + _varint(whole)
    yield inner
    for opening, array in zip(heads, data, strict=True):
        yield opening
        yield array


def _flat(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _varint(number: int) -> bytes:
    """A number in protobuf's encoding: seven bits a byte, the last one without the highest bit."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])
