"""Keep the top classes that models predict for each image, also in files.

Predictions of parts of the data, of several processes or of an interrupted run add
up to exactly those of the whole, and two models are compared on the same images.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from decompose.utils.distributed import Processes
from decompose.utils.files import writing
from decompose.utils.hashing import content_digest
from decompose.utils.safetensors_files import write_tensors

_SECONDS_BETWEEN = 10.0


TOP = 5
"""Number of classes kept of each image."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """The top classes that models predict for each image.

    Attributes:
        indices: of the images in the data, ``(N,)`` int64.
        labels: their classes, ``(N,)`` int64.
        guesses: the classes with the highest scores, best first, ``(models, N, K)`` int64, with K
            of ``TOP`` or the number of classes.
        unreadable: the images that could not be read, by path, with the reason.
    """

    indices: Tensor
    labels: Tensor
    guesses: Tensor
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """The predictions of all parts, in the order of their indices; an image in two counts once."""
        filled = [part for part in parts if len(part.indices)] or parts[:1]
        indices, first = _unique(torch.cat([part.indices for part in filled]))
        return cls(
            indices,
            torch.cat([part.labels for part in filled])[first],
            torch.cat([part.guesses for part in filled], 1)[:, first],
            {path: why for part in parts for path, why in part.unreadable.items()},
        )

    def hits(self, k: int) -> Tensor:
        """Whether the class is among the k highest, ``(models, N)`` bool."""
        return (self.guesses[..., :k] == self.labels.unsqueeze(1)).any(-1)

    def agreement(self, model: int) -> float:
        """Share of the images that a model puts in the first model's class."""
        return float((self.guesses[model, :, 0] == self.guesses[0, :, 0]).double().mean())

    def save(self, path: Path, key: str) -> None:
        """Write them to a file, replaced as a whole, with a key that identifies their models and data."""
        tensors = {"places": self.indices, "labels": self.labels, "guesses": self.guesses}
        unreadable = json.dumps(dict(self.unreadable))
        digest = content_digest(key + unreadable, tensors)
        with writing(path) as temporary:
            metadata = {"key": key, "unreadable": unreadable, "sha256": digest}
            write_tensors(tensors, temporary, metadata)

    @classmethod
    def load(cls, path: Path, key: str) -> Predictions | None:
        """Read a file; ``None`` where it is damaged, or its key is another."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != key:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if content_digest(key + metadata["unreadable"], tensors) != metadata["sha256"]:
                return None
            unreadable = json.loads(metadata["unreadable"])
            return cls(tensors["places"], tensors["labels"], tensors["guesses"], unreadable)
        # Whatever it holds, it can be measured again.
        except Exception:  # noqa: BLE001
            return None


def _unique(indices: Tensor) -> tuple[Tensor, Tensor]:
    """Sort indices without repeats, with the first position of each."""
    order = torch.argsort(indices, stable=True)
    ordered = indices[order]
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return ordered[new], order[new]


@dataclass
class PartialResults:
    """Each process's predictions so far, in a file beside the evaluation's record.

    Args:
        record: path of the record.
        key: identifies models and data; predictions of another key are not taken up.
        processes: that work together; a run of another number may go on.
    """

    record: Path
    key: str
    processes: Processes
    _saved_at: float = 0.0

    def open(self) -> Predictions | None:
        """Read the partial results of an earlier run, the same in every process."""
        done = None
        if self.processes.is_first():
            found = [Predictions.load(path, self.key) for path in _files(self.record)]
            if parts := [part for part in found if part is not None]:
                done = Predictions.joined(parts)
                # All of it in one file, before the others write theirs anew.
                done.save(self._file(0), self.key)
        self._saved_at = time.monotonic()
        return self.processes.gather(done)[0]

    def is_due(self) -> bool:
        """Whether this process's last write is long enough ago."""
        return time.monotonic() - self._saved_at >= _SECONDS_BETWEEN

    def keep(self, predictions: Predictions) -> None:
        """Write this process's predictions."""
        predictions.save(self._file(self.processes.index), self.key)
        self._saved_at = time.monotonic()

    def _file(self, index: int) -> Path:
        return self.record.with_name(f"{_prefix(self.record)}{index}")


def forget(record: Path) -> None:
    """Remove the partial results of a record that is written."""
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
