"""VGG16 under a budget of MACs: one method for all layers, and the best mixture, repaired.

What each method of the literature loses at the same MACs when it does all layers, and what is left
of that when each layer gets its own (``decompose.plan(macs=...)``) and is refitted on a few unlabelled
images, or on none. Relative squared error of pool5 on the twelve photographs that scikit-image and
scikit-learn ship; no labels, no training.

    python -m experiments.budget.run --calibrate PICTURES --output runs/budget

``PICTURES`` is a folder of photographs to plan and repair on, others than those twelve; the README
beside this file names the source of the committed figures' sixteen. Forty minutes on two cores.
Expect the calibrated mixture at 2.14 times fewer MACs to lose a tenth of what uniform spatial
decomposition loses. ``table.py`` renders the figures.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import decompose
from decompose.algebra import Deviation
from decompose.data.bundled import photographs
from decompose.data.folders import image_folder
from decompose.layers.costs import count_macs, trace_shapes
from decompose.layers.forward import outputs
from decompose.models.architectures import OFFLINE_VGG16, Architecture
from decompose.models.plans import Plan
from decompose.utils.progress import track
from experiments.budget.objective import correlate
from experiments.budget.peer import executed_macs, tensorly_torch
from experiments.budget.table import LABELS, summarize
from experiments.common.plots import Point, plot_error_against_macs
from experiments.common.records import keep, publish

FEWER = (2.14, 3.0, 3.7)
"""How many times fewer MACs."""

NUM_SYNTHETIC = 8
"""Synthetic images that networks are repaired on without data, in several views."""

DENSE = ("conv1_1",)
UNIFORM: Mapping[str, list[dict[str, Any]]] = {
    "pw_dw": [{"rank": rank} for rank in (4, 3, 2)],
    "dw_pw": [{"rank": rank} for rank in (4, 3, 2)],
    "spatial": [{"ratio": ratio} for ratio in FEWER],
    "channel": [{"ratio": ratio} for ratio in FEWER],
    "tucker": [{"ratio": ratio} for ratio in FEWER],
}


class Study:
    """The network, the photographs that errors are measured on, and the points found."""

    def __init__(self) -> None:
        self.network = decompose.load(OFFLINE_VGG16)
        _, self.images = photographs(Architecture.parse(OFFLINE_VGG16).transform())
        self.shapes = trace_shapes(self.network, self.images)
        self.macs = sum(count_macs(self.network, self.shapes).values())
        self.expected = outputs(self.network, self.images)
        self.points: dict[str, list[dict[str, float]]] = {}

    def add(self, curve: str, small: nn.Module) -> None:
        """Measure a smaller network, as a point of a curve."""
        macs = executed_macs(small, self.images[:1])
        error = Deviation.between(outputs(small, self.images), self.expected).relative
        self.points.setdefault(curve, []).append({"macs": macs, "error": error})


def main(
    calibrate: Annotated[Path, typer.Option(help="Folder of unlabelled photographs.")],
    output: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path(
        "runs/budget"
    ),
    max_images: Annotated[int, typer.Option(help="Take no more of them than this.")] = 16,
    plans: Annotated[int, typer.Option(help="Random plans to compare objectives on.")] = 30,
) -> None:
    """Measure every curve, and write it all down."""
    output.mkdir(parents=True, exist_ok=True)
    study = Study()
    todo = [(method, settings) for method, several in UNIFORM.items() for settings in several]
    for method, settings in track(todo, "uniform plans"):
        plan = decompose.plan(study.network, study.images, method=method, skip=DENSE, **settings)
        study.add(method, decompose.apply(plan, study.network))
        if method == "tucker" and "tensorly-torch" not in study.points:
            # It takes minutes, to find what ours finds.
            study.add("tensorly-torch", tensorly_torch(plan, study.network))

    seconds = mixtures_without_data(study)
    calibration = read_images(calibrate, max_images)
    seconds |= mixtures_with_data(study, calibration)
    record = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "num_calibrated": len(calibration),
        "num_test": len(study.images),
        "original_macs": study.macs,
        "fewer": FEWER,
        "points": study.points,
        "seconds": seconds,
        "objective": correlate(study.network, study.images, plans),
    }
    keep(record, output / "results.json")
    draw(record, output / "error_against_macs.png")
    publish(summarize(record), output)


def mixtures_without_data(study: Study) -> dict[str, float]:
    """The mixture planned without any image; as truncated, and repaired on synthetic ones."""
    synthetic = decompose.synthetic_inputs(study.images[:1] * 0, study.network, num=NUM_SYNTHETIC)
    seconds = {}
    for fewer in FEWER:
        start = time.perf_counter()
        plan = decompose.plan(study.network, study.images[:1] * 0, macs=1 / fewer)
        seconds["plan, data-free"] = time.perf_counter() - start
        study.add("mixture, data-free", decompose.apply(plan, study.network))
        start = time.perf_counter()
        small = decompose.apply(plan, study.network, calibrate=synthetic)
        seconds["repair, data-free"] = time.perf_counter() - start
        study.add("mixture, data-free, repaired", small)
    return seconds


def mixtures_with_data(study: Study, calibration: Tensor) -> dict[str, float]:
    """The mixture planned and repaired on images; measured once for all budgets."""
    seconds = {}
    start = time.perf_counter()
    statistics = decompose.measure(study.network, study.images, calibration)
    seconds["measure, calibrated"] = time.perf_counter() - start
    for fewer in FEWER:
        start = time.perf_counter()
        plan: Plan = decompose.plan(
            study.network, study.images, macs=1 / fewer, calibrate=statistics
        )
        seconds["plan, calibrated"] = time.perf_counter() - start
        start = time.perf_counter()
        small = decompose.apply(plan, study.network, calibrate=calibration)
        seconds["repair, calibrated"] = time.perf_counter() - start
        study.add("mixture, calibrated", small)
    return seconds


def read_images(folder: Path, most: int) -> Tensor:
    """Photographs of a folder as inputs of VGG16, ``(batch, 3, 224, 224)``."""
    transform = Architecture.parse(OFFLINE_VGG16).transform()
    return torch.cat([batch.images for batch in image_folder(folder, transform, most).batches(8)])


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Error against MACs, a line a method and the mixtures'."""
    curves = {
        LABELS[name]: [Point(None, point["macs"], point["error"]) for point in points]
        for name, points in record["points"].items()
    }
    title = f"VGG16's pool5 features on {record['num_test']} photographs"
    plot_error_against_macs(curves, record["original_macs"], path, title=title)


if __name__ == "__main__":
    typer.run(main)
