"""Read tensors of ONNX files as arrays, in memory or mapped from files beside the graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from decompose.utils.errors import DecomposeError, first_line

if TYPE_CHECKING:
    import onnx_ir as ir


def owned(tensor: ir.TensorProtocol, model: Path) -> ir.TensorProtocol:
    """Copy a tensor's data out of the file's protobuf message.

    Args:
        tensor: of the model.
        model: the file that it is of.

    Raises:
        DecomposeError: its data is not as long as its shape says, or lies outside the model's folder.
        ValueError: or another of onnx_ir's errors: its data is damaged.
    """
    import onnx_ir as ir

    dims = tensor.shape.numpy()
    if isinstance(tensor, ir.StringTensor):
        array = np.array([*tensor.string_data(), None], object)[:-1].reshape(dims)
        return ir.StringTensor(array, name=tensor.name, doc_string=tensor.doc_string)
    if isinstance(tensor, ir.ExternalTensor):
        array = _external_array(tensor, model)
    else:
        size = _encoded_size(tensor)
        # A number takes no less than one byte in a message, and no more than eight here.
        if min(dims, default=1) < 0 or tensor.nbytes > 8 * size:
            raise DecomposeError(_of_other_length(tensor, size))
        array = np.array(tensor.numpy())
    return ir.Tensor(
        array,
        tensor.dtype,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _encoded_size(tensor: ir.TensorProtocol) -> int:
    """Bytes that a tensor takes in a message."""
    import onnx_ir as ir

    assert isinstance(tensor, ir.serde.TensorProtoTensor)
    return tensor.raw.ByteSize()


def _external_array(tensor: ir.ExternalTensor, model: Path) -> np.ndarray:
    """Map the data of a tensor in a file, copy-on-write.

    Raises:
        DecomposeError: the data lies outside the model's folder, or is not as long as it should be.
    """
    path, offset, length = _find_data(tensor, model)
    dims, kind = tensor.shape.numpy(), tensor.dtype.numpy()
    if min(dims, default=1) < 0 or tensor.nbytes != length:
        raise DecomposeError(_of_other_length(tensor, length))
    if length == 0:
        return np.zeros(dims, kind)
    if tensor.dtype.bitwidth < 8:
        raise DecomposeError(
            f"the external data of {tensor.name} is of {tensor.dtype.bitwidth} bits"
        )
    # Copy on write: the file stays what it is.
    mapped = np.memmap(path, kind.newbyteorder("<"), "c", offset, dims)
    return np.asarray(mapped) if offset % kind.itemsize == 0 else np.array(mapped)


def _find_data(tensor: ir.ExternalTensor, model: Path) -> tuple[Path, int, int]:
    """File, offset and length of external data.

    Where model and data are links, as in the cache of the Hugging Face hub, it may also lie beside what
    the model's link leads to.

    Raises:
        DecomposeError: it lies outside the model's folder, or the file does not hold it.
    """
    what = f"the external data of {tensor.name}"
    try:
        location = Path(tensor.location or "")
        path = (model.parent / location).resolve(strict=True)
        homes = model.parent.resolve(), model.resolve().parent
        leaves = location.is_absolute() or ".." in location.parts
        if leaves or not any(map(path.is_relative_to, homes)) or not path.is_file():
            raise DecomposeError(f"{what} is to lie in the model's own folder")
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        if isinstance(error, DecomposeError):
            raise
        raise DecomposeError(f"{what} cannot be read: {first_line(error)}") from None
    offset = tensor.offset or 0
    length = size - offset if tensor.length is None else tensor.length
    if not 0 <= offset <= offset + length <= size:
        raise DecomposeError(f"{what} reaches beyond the end of {path.name}")
    return path, offset, length


def _of_other_length(tensor: ir.TensorProtocol, num_bytes: int) -> str:
    shape = "x".join(map(str, tensor.shape.numpy()))
    return (
        f"the initialiser {tensor.name} has {num_bytes} bytes, which are not those of shape {shape}"
    )
