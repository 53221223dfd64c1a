"""Write and read checkpoints: nested states as safetensors files, atomically and without pickle.

Tensors are stored as such, and all else as JSON in the header, beside a SHA-256 digest of both. A
file is written beside its place and then renamed; the newest whole one is what a run goes on from.
(Accelerate's own ``save_state`` would pickle.) ::

    step-00000300.safetensors    the one before, in case the last is damaged
    step-00000400.safetensors    the last
    best.safetensors             the best so far
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from decompose.utils.errors import DecomposeError, first_line, reason
from decompose.utils.files import writing
from decompose.utils.hashing import content_digest
from decompose.utils.safetensors_files import write_tensors

_NUM_KEPT = 2
_NAME = re.compile(r"step-(\d{8,})\.safetensors")
_CONTENT, _DIGEST = "content", "sha256"


class DamagedError(DecomposeError):
    """A file is damaged."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run, in a folder of their own.

    Attributes:
        folder: made when the first is written.
    """

    folder: Path

    @property
    def best(self) -> Path:
        """File of the best state."""
        return self.folder / "best.safetensors"

    def paths(self) -> list[Path]:
        """Files of the last states, the oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))

    def keep(self, step: int, content: Mapping[str, Any]) -> None:
        """Write the state after ``steps`` steps, and remove all but the newest older one.

        Raises:
            DecomposeError: it cannot be written; the earlier ones are still there.
        """
        self.make_folder()
        write_state(self.folder / f"step-{step:08d}.safetensors", content)
        for path in self.paths()[:-_NUM_KEPT]:
            path.unlink()

    def newest(self) -> dict[str, Any] | None:
        """Read the newest undamaged state, with a warning for damaged ones; ``None`` without any.

        What is damaged, or a killed process left half written, is removed.

        Raises:
            DecomposeError: one cannot be read, which may pass.
        """
        for partial in self.folder.glob(".*.partial"):
            partial.unlink()
        paths = self.paths()
        while paths:
            path = paths.pop()
            try:
                return read_state(path)
            except DamagedError as error:
                rest = "falling back to the one before" if paths else "there is none before it"
                warnings.warn(f"{error}; {rest}", stacklevel=2)
                # Rewritten later, it must not be taken for a later state.
                path.unlink()
        return None

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Lock the folder against other runs; it is removed afterwards if empty.

        Yields:
            Whether no other run does.

        Raises:
            DecomposeError: the folder cannot be made.
        """
        self.make_folder()
        opened = os.open(self.folder, os.O_RDONLY)
        try:
            is_alone = True
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                is_alone = False
            except OSError:
                # A file system that has no locks does without.
                pass
            yield is_alone
        finally:
            os.close(opened)
            with suppress(OSError):
                self.folder.rmdir()

    def make_folder(self) -> None:
        """Make the folder.

        Raises:
            DecomposeError: it cannot be made.
        """
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise DecomposeError(f"{self.folder}: cannot be made: {reason(error)}") from None


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
