"""The images and statistics that ``decompose compress`` plans and repairs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from decompose.cli.inputs import calibration_images
from decompose.cli.outputs import print_agreement, print_table
from decompose.compression.reconstruction.repair import repair_, repair_table
from decompose.compression.search.scoring import measure
from decompose.compression.statistics import Statistics
from decompose.data.synthetic import are_cheap, num_to_repair_on, synthetic_inputs
from decompose.evaluation.agreement import class_agreement
from decompose.utils.errors import DecomposeError

NUM_IMAGES = 64
"""Default of the most images to plan and repair on."""


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
        images: list[Any] | None,
        given: Mapping[str, Any],
        *,
        repairing: bool,
    ) -> list[Any] | Statistics | Tensor | None:
        """The images or statistics that a budget is planned on; new statistics are saved if asked for."""
        if self.statistics is not None:
            return Statistics.load(self.statistics)
        if images is None and repairing and are_cheap(example):
            return synthetic_inputs(example, model, num=num_to_repair_on(example))
        if images is None or self.save_statistics is None:
            return images
        scope = {name: given[name] for name in ("methods", "skip", "effort") if name in given}
        found = measure(model, example, images, **scope)
        found.save(self.save_statistics)
        return found


def repair_and_report(
    small: nn.Module,
    model: nn.Module,
    example: Tensor,
    images: Sequence[Tensor] | None,
    effort: str,
) -> None:
    """Repair a model on images, or else on synthetic inputs, and print what it gained."""
    inputs = images or synthetic_inputs(example, model, num=num_to_repair_on(example))
    print_table(repair_table(repair_(small, model, inputs, effort=effort)))
    print_agreement(class_agreement(model, small, inputs), synthetic=not images)
