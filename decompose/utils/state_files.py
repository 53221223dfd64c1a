"""Write and read nested states as safetensors files, atomically and without pickle.

Tensors are stored as such, and all else as JSON in the header, beside a SHA-256 digest of both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from decompose.utils.errors import DecomposeError, first_line, reason
from decompose.utils.files import writing
from decompose.utils.hashing import content_digest
from decompose.utils.safetensors_files import write_tensors

_CONTENT, _DIGEST = "content", "sha256"


class DamagedError(DecomposeError):
    """A file is damaged."""


def write_state(path: Path, content: Mapping[str, Any]) -> None:
    """Write a nested state of mappings, lists, tensors, numbers, texts and ``None``.

    Raises:
        DecomposeError: it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(content, tensors, ""))
    with writing(path) as temporary:
        write_tensors(tensors, temporary, {_CONTENT: text, _DIGEST: content_digest(text, tensors)})


def read_state(path: Path) -> dict[str, Any]:
    """Read a state that ``write_state`` wrote.

    Raises:
        DamagedError: it is not what was written.
        DecomposeError: it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text, digest = metadata[_CONTENT], metadata[_DIGEST]
    except OSError as error:
        raise DecomposeError(f"{path}: cannot be read: {reason(error)}") from None
    # A header may hold anything.
    except Exception as error:  # noqa: BLE001
        raise DamagedError(f"{path}: is damaged or no checkpoint: {first_line(error)}") from None
    if content_digest(text, tensors) != digest:
        raise DamagedError(f"{path}: is damaged: its digest is another")
    try:
        content = _unpack(json.loads(text), tensors)
    except (ValueError, LookupError, TypeError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise DamagedError(f"{path}: is no checkpoint")
    return content


def _pack(content: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """Convert a state to JSON and tensors by name; keys of mappings may be numbers."""
    if isinstance(content, Tensor):
        # A copy: the file takes no two tensors that share memory.
        tensors[name] = content.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(content, Mapping):
        parts = [[key, _pack(part, tensors, f"{name}/{key}")] for key, part in content.items()]
        return {"mapping": parts}
    if isinstance(content, list | tuple):
        return [_pack(part, tensors, f"{name}/{index}") for index, part in enumerate(content)]
    assert content is None or isinstance(content, bool | int | float | str), (name, content)
    return content


def _unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(packed, list):
        return [_unpack(part, tensors) for part in packed]
    if isinstance(packed, dict):
        if "tensor" in packed:
            return tensors[packed["tensor"]]
        return {key: _unpack(part, tensors) for key, part in packed["mapping"]}
    return packed
