"""Outcomes kept on disk while an evaluation runs, so that an interrupted one goes on where it was."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from decompose.evaluation.predictions import Outcomes
from decompose.utils.distributed import Processes

_SECONDS_BETWEEN = 10.0


@dataclass
class Ledger:
    """A file for each process, beside the record that the evaluation is to end in.

    Args:
        record: path of the record.
        key: what the outcomes are of; those of another key are not taken up.
        processes: that work together; a run of another number may go on.
    """

    record: Path
    key: str
    processes: Processes
    _saved_at: float = 0.0

    def open(self) -> Outcomes | None:
        """What was found before, the same in every process."""
        done = None
        if self.processes.is_first():
            found = [Outcomes.load(path, self.key) for path in _files(self.record)]
            if parts := [part for part in found if part is not None]:
                done = Outcomes.joined(parts)
                # All of it in one file, before the others write theirs anew.
                done.save(self._file(0), self.key)
        self._saved_at = time.monotonic()
        return self.processes.gather(done)[0]

    def is_due(self) -> bool:
        """Whether it was some time ago that this process kept what it has."""
        return time.monotonic() - self._saved_at >= _SECONDS_BETWEEN

    def keep(self, outcomes: Outcomes) -> None:
        """Write this process's outcomes."""
        outcomes.save(self._file(self.processes.index), self.key)
        self._saved_at = time.monotonic()

    def _file(self, index: int) -> Path:
        return self.record.with_name(f"{_prefix(self.record)}{index}")


def forget(record: Path) -> None:
    """Remove what was kept for a record, once that is written."""
    for path in _files(record):
        path.unlink(missing_ok=True)


def _files(record: Path) -> list[Path]:
    prefix = _prefix(record)
    return sorted(
        path
        for path in record.parent.iterdir()
        if path.name.startswith(prefix) and path.name[len(prefix) :].isdecimal()
    )


def _prefix(record: Path) -> str:
    return f".{record.name}.outcomes."
