"""The images and statistics that ``decompose compress`` plans and repairs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from decompose.cli.inputs import calibration_images
from decompose.cli.options import NUM_IMAGES
from decompose.cli.outputs import print_agreement, print_table
from decompose.compression.checkpoints import CompressionCheckpoints
from decompose.compression.reconstruction.repair import repair_, repair_table
from decompose.compression.search.scoring import measure
from decompose.compression.statistics import Statistics
from decompose.evaluation.agreement import class_agreement
from decompose.utils.errors import DecomposeError


@dataclass(frozen=True)
class Calibration:
    """The options ``--calibrate``, ``--max-images``, ``--statistics`` and ``--save-statistics``.

    Attributes:
        calibrate: folder of unlabelled images.
        max_images: number of images to take of it at most.
        statistics: file of statistics to plan by.
        save_statistics: file to write new statistics to.
    """

    calibrate: Path | None
    max_images: int | None
    statistics: Path | None
    save_statistics: Path | None

    def require_effect(self, *, budgeted: bool, repairing: bool) -> None:
        """Check that none of the options is without effect.

        Args:
            budgeted: whether a plan is made for a budget.
            repairing: whether layers are repaired.

        Raises:
            DecomposeError: one is.
        """
        if (self.statistics or self.save_statistics) and not budgeted:
            raise DecomposeError("statistics are for a budget: give --macs, --params or --latency")
        if self.save_statistics and self.statistics:
            raise DecomposeError("--save-statistics keeps new measurements; give no --statistics")
        if self.save_statistics and not self.calibrate:
            raise DecomposeError("--save-statistics keeps measurements on images: --calibrate")
        if self.max_images and not self.calibrate:
            raise DecomposeError("--max-images is how many images to take of --calibrate")
        if self.calibrate and not repairing and (self.statistics or not budgeted):
            raise DecomposeError(
                "--calibrate is to plan a budget by, where no --statistics are given, and to repair by"
            )

    def images(self, model: nn.Module) -> list[Any] | None:
        """The images as batches; ``None`` without ``--calibrate``."""
        if self.calibrate is None:
            return None
        return calibration_images(self.calibrate, model, self.max_images or NUM_IMAGES)

    def to_plan_on(
        self,
        model: nn.Module,
        example: Tensor,
        inputs: list[Any] | Tensor | None,
        scope: Mapping[str, Any],
        checkpoints: CompressionCheckpoints | None,
    ) -> list[Any] | Statistics | Tensor | None:
        """The inputs or statistics that a budget is planned on.

        Args:
            model: the original.
            example: one batch.
            inputs: to plan on, if any.
            scope: methods, skip and effort.
            checkpoints: that keep statistics.
        """
        if self.statistics is not None:
            return Statistics.load(self.statistics)
        if inputs is None or (self.save_statistics is None and checkpoints is None):
            return inputs
        measured = partial(measure, model, example, inputs, **scope)
        found = measured() if checkpoints is None else checkpoints.statistics(measured)
        if self.save_statistics is not None:
            found.save(self.save_statistics)
        return found


def repair_and_report(
    small: nn.Module,
    model: nn.Module,
    inputs: Sequence[Tensor] | Tensor,
    effort: str,
    checkpoints: CompressionCheckpoints | None,
    *,
    synthetic: bool,
) -> None:
    """Repair a model on images or synthetic inputs, and print what it gained."""
    repairs = repair_(small, model, inputs, effort=effort, checkpoints=checkpoints)
    print_table(repair_table(repairs))
    print_agreement(class_agreement(model, small, inputs), synthetic=synthetic)
