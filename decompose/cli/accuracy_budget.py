"""``decompose compress --max-drop``: the smallest model whose accuracy falls by no more than allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from decompose.data.folders import image_folder, labelled_images
from decompose.data.images import ImageDataset, default_workers
from decompose.data.webdataset import is_shards
from decompose.evaluation.accuracy_budget import WithinDrop, compress_within_drop
from decompose.models.serialization import required_preprocessing
from decompose.utils.errors import DecomposeError
from decompose.utils.tables import Table

_ALLOWED = {"methods", "skip", "engine", "threads", "multiple"}


@dataclass(frozen=True)
class DropBudget:
    """The options ``--max-drop`` and ``--data``.

    Attributes:
        max_drop: in points.
        data: labelled images, or a folder of images without labels.
    """

    max_drop: float
    data: str

    @classmethod
    def of(
        cls,
        max_drop: float | None,
        data: str | None,
        settings: Mapping[str, Any],
        *,
        planned: bool,
        repaired: bool,
    ) -> DropBudget | None:
        """Check the options together; ``None`` without ``--max-drop``.

        Args:
            max_drop: in points.
            data: where the images lie.
            settings: the other options of a plan.
            planned: whether a plan or statistics are given.
            repaired: whether layers are to be repaired.

        Raises:
            DecomposeError: they contradict one another, or one is missing.
        """
        if max_drop is None:
            if data is not None:
                raise DecomposeError("--data is what --max-drop is judged on; give --max-drop")
            return None
        if data is None:
            raise DecomposeError("--max-drop is judged on images: --data")
        if others := sorted(settings.keys() - _ALLOWED):
            raise DecomposeError(
                f"--max-drop finds the budget itself; give no --{others[0].replace('_', '-')}"
            )
        if planned:
            raise DecomposeError(
                "--max-drop makes its own plan; give no --plan and no --statistics"
            )
        if not repaired:
            raise DecomposeError("--max-drop judges repaired models; give no --no-repair")
        if not 0 < max_drop < 100:
            raise DecomposeError(f"--max-drop {max_drop:g}: points of accuracy, between 0 and 100")
        return cls(max_drop, data)

    def search(
        self,
        model: nn.Module,
        example: Tensor,
        inputs: list[Any] | None,
        settings: Mapping[str, Any],
    ) -> WithinDrop:
        """Find the smallest model, or the fastest where an engine is given.

        Args:
            model: a classifier that knows its preprocessing.
            example: one batch.
            inputs: to plan and repair on; by default some of the images.
            settings: methods, skip, engine, threads, multiple and effort.
        """
        return compress_within_drop(
            model,
            example,
            images_to_judge_on(self.data, model),
            self.max_drop / 100,
            budget="latency" if "engine" in settings else "macs",
            calibrate=inputs,
            workers=default_workers(),
            **settings,
        )


def trials_table(found: WithinDrop) -> Table:
    """A table with a row a trial, and the accuracy of the chosen one on the confirming images."""
    judged = "top-1" if found.is_labelled else "agreement with the original"
    rows = [
        (f"{trial.share:.1%}", "no plan is as small" if trial.change is None else _points(trial))
        for trial in found.trials
    ]
    value, low, high = (100 * part for part in found.change)
    return Table(
        f"Kept {found.share:.1%}: on {found.num_checked:,} images that took no part in the search, "
        f"{judged} changes by {value:+.2f} points, with 95 % confidence {low:+.2f} to {high:+.2f}",
        ["share tried", f"change of {judged}, points"],
        rows,
    )


def _points(trial: Any) -> str:
    value, low, high = (f"{100 * part:+.2f}" for part in trial.change)
    return f"{value} ({low} to {high})"


def images_to_judge_on(data: str, model: nn.Module) -> ImageDataset:
    """Labelled images where there are class folders or shards; otherwise images without labels."""
    transform = required_preprocessing(model).transform()
    folder = Path(data)
    if is_shards(data) or any(path.is_dir() for path in folder.glob("*")):
        return labelled_images(data, transform)
    return image_folder(folder, transform)
