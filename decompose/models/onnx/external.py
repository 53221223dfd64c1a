"""Weights of ONNX models that lie in files of their own, beside the model's."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from decompose.utils.errors import DecomposeError, first_line

if TYPE_CHECKING:
    from onnx import TensorProto


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
