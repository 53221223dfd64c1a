"""Write safetensors files whose bytes depend on their content only."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

_METADATA = "__metadata__"


def write_tensors(
    tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a safetensors file, the metadata in the order of its keys.

    Args:
        tensors: by name, none sharing memory with another.
        path: of the file, which is written in place (``files.writing`` gives a temporary one).
        metadata: texts for the header.

    >>> import torch, tempfile
    >>> path = Path(tempfile.mkdtemp(), "a.safetensors")
    >>> write_tensors({"x": torch.zeros(1)}, path, {"b": "2", "a": "1"})
    >>> path.read_bytes()[8:].partition(b"}")[0].decode()
    '{"__metadata__":{"a":"1","b":"2"'
    """
    save_file(dict(tensors), path, None if metadata is None else dict(metadata))
    sort_metadata(path)


def sort_metadata(path: str | Path) -> None:
    """Sort a file's metadata by key, in place; safetensors writes it in random order."""
    with Path(path).open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        if _METADATA not in header:
            return
        header[_METADATA] = dict(sorted(header[_METADATA].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        # The same characters in another order, and spaces behind them.
        assert len(text) <= length, path
        file.seek(8)
        file.write(text.ljust(length))
