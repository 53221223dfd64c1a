"""Keep the finished phases of a compression, so that an interrupted run goes on after the last of them.

Each phase is a state file in a folder: the statistics, the plan, and every repaired layer. ::

    run.safetensors              what the run is for: digests of model and inputs, and options
    statistics.safetensors       moments and corrections (``compression.statistics``)
    plan.json
    repaired-0003.safetensors    factors of the fourth layer that was repaired
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from decompose.compression.statistics import Statistics
from decompose.models.plans import Plan
from decompose.utils.errors import DecomposeError, reason
from decompose.utils.hashing import content_digest, weights_digest
from decompose.utils.state_files import read_state, write_state

T = TypeVar("T")


@dataclass(frozen=True)
class CompressionCheckpoints:
    """The finished phases of one compression.

    Attributes:
        folder: of their files.
    """

    folder: Path

    @classmethod
    def open(cls, folder: Path, key: Mapping[str, str]) -> CompressionCheckpoints:
        """Open the folder of a run, or make it.

        Args:
            folder: of the run's files alone.
            key: identifies the run (``key_of``).

        Raises:
            DecomposeError: the folder cannot be made, or holds another run.
        """
        path = folder / "run.safetensors"
        if path.is_file():
            held = read_state(path)
            if others := [name for name, value in key.items() if held.get(name) != value]:
                raise DecomposeError(
                    f"{folder}: holds a run with other {' and other '.join(others)}; remove the folder "
                    "to begin anew"
                )
        else:
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise DecomposeError(f"{folder}: cannot be made: {reason(error)}") from None
            write_state(path, dict(key))
        return cls(folder)

    def statistics(self, measure: Callable[[], Statistics]) -> Statistics:
        """The statistics of an earlier run, or else measured and kept."""
        path = self.folder / "statistics.safetensors"
        if (found := _read(path, Statistics.load)) is None:
            found = measure()
            found.save(path)
        return found

    def plan(self, make: Callable[[], Plan]) -> Plan:
        """The plan of an earlier run, or else made and kept."""
        path = self.folder / "plan.json"
        if (found := _read(path, Plan.load)) is None:
            found = make()
            found.save(path)
        return found

    def repaired(self, index: int) -> dict[str, Any] | None:
        """What ``keep_repaired`` kept of a layer; ``None`` if it was not reached."""
        return _read(self._layer(index), read_state)

    def keep_repaired(self, index: int, content: Mapping[str, Any]) -> None:
        """Keep a repaired layer.

        Args:
            index: of the layer, in the order of repair.
            content: nested mappings, lists, tensors, numbers and texts.
        """
        write_state(self._layer(index), content)

    def remove(self) -> None:
        """Remove the folder, once the run's output is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _layer(self, index: int) -> Path:
        return self.folder / f"repaired-{index:04d}.safetensors"


def key_of(
    model: nn.Module, inputs: Iterable[Tensor] | None, options: Mapping[str, object]
) -> dict[str, str]:
    """Identify a compression, so that it does not go on with another one's phases.

    Args:
        model: the original.
        inputs: to calibrate on, in batches.
        options: of plan and repair.
    """
    images = {str(index): x for index, x in enumerate(() if inputs is None else inputs)}
    return {
        "weights": weights_digest(model),
        "images": content_digest("", images),
        "options": repr(sorted(options.items())),
    }


def _read(path: Path, load: Callable[[Path], T]) -> T | None:
    """Load a file; ``None`` if there is none, or with a warning if it is damaged."""
    if not path.is_file():
        return None
    try:
        return load(path)
    except DecomposeError as error:
        warnings.warn(f"{error}; that phase is done again", stacklevel=3)
        return None
