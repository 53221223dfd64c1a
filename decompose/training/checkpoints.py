"""Write and read the checkpoints of a run: the newest undamaged one is what it goes on from.

They are state files (``utils.state_files``); Accelerate's own ``save_state`` would pickle. ::

    step-00000300.safetensors    the one before, in case the last is damaged
    step-00000400.safetensors    the last
    best.safetensors             the best so far
"""

from __future__ import annotations

import fcntl
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decompose.utils.errors import DecomposeError, reason
from decompose.utils.state_files import DamagedError, read_state, write_state

_NUM_KEPT = 2
_NAME = re.compile(r"step-(\d{8,})\.safetensors")


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
