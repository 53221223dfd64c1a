"""VGG16: how much of the MACs' promise is kept, and what a budget of time buys.

Uniform network decoupling (PW+DW, T = 2 to 4, conv1_1 dense) against dense in every engine at batch 1
and 8; then mixtures planned for a share of the original's time in ONNX Runtime and repaired on
photographs, with what they lose and how fast they are.

    python -m experiments.speed.run --calibrate PICTURES --output runs/speed
    python -m experiments.speed.run --calibrate PICTURES --output runs/speed --part budgets --batch 1

Forty-five minutes on two idle cores. Expect 0.80 to 0.88 of the promise in ONNX Runtime, 0.60 to 0.70 in
eager torch, and twice the speed of dense for an error of about 0.02. ``table.py`` renders the figures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from torch import Tensor, nn

import decompose
from decompose.algebra import Deviation
from decompose.compression.statistics import Statistics
from decompose.data.bundled import photographs
from decompose.data.folders import image_folder
from decompose.evaluation.plots import plot_speed_up
from decompose.inference.benchmark import Benchmark, time_side_by_side
from decompose.inference.engines import get_engine
from decompose.layers.forward import outputs
from decompose.models.architectures import OFFLINE_VGG16, Architecture
from experiments.common.records import keep, publish
from experiments.speed.table import summarize

DENSE = ("conv1_1",)
RANKS = (2, 3, 4)
BATCH_SIZES = (1, 8)
ENGINES = "eager,compile,onnxruntime,openvino"
PACED_ENGINE = "onnxruntime"
SHARES = {1: (0.5, 0.35, 0.3), 8: (0.5,)}
"""Shares of the original's time, by batch size."""


def main(
    calibrate: Annotated[Path, typer.Option(help="Folder of unlabelled photographs.")],
    output: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path("runs/speed"),
    max_images: Annotated[int, typer.Option(help="Take no more of them than this.")] = 16,
    engines: Annotated[str, typer.Option(help="What runs the uniform networks.")] = ENGINES,
    part: Annotated[
        Literal["all", "uniform", "budgets"],
        typer.Option(help="Measure only this; the rest stays as it is in the folder."),
    ] = "all",
    batch: Annotated[int | None, typer.Option(help="Budgets of this batch size only.")] = None,
) -> None:
    """Time the uniform networks and the mixtures, and write it all down."""
    output.mkdir(parents=True, exist_ok=True)
    results = output / "results.json"
    record = json.loads(results.read_text(encoding="utf-8")) if part != "all" else {}
    network = decompose.load(OFFLINE_VGG16)
    transform = Architecture.parse(OFFLINE_VGG16).transform()
    _, images = photographs(transform)
    folder = image_folder(calibrate, transform, max_images)
    calibration = torch.cat([seen.images for seen in folder.batches(8, 0)])
    record |= {
        "torch": torch.__version__,
        "num_calibrated": len(calibration),
        "num_test": len(images),
    }
    if part != "budgets":
        uniform = time_uniform(network, images, engines.split(","))
        record["uniform"] = uniform.to_dict()
        plot_speed_up(uniform, output / "speed_up.png")
    if part != "uniform":
        batches = [size for size in SHARES if batch in (None, size)]
        kept = [paced for paced in record.get("paced", []) if paced["batch_size"] not in batches]
        statistics = decompose.measure(network, images[:1], calibration)
        made = [
            pace(network, images, calibration, statistics, size, share)
            for size in batches
            for share in SHARES[size]
        ]
        record["paced"] = sorted(made + kept, key=lambda paced: paced["batch_size"])
    keep(record, results)
    publish(summarize(record), output)


def time_uniform(network: nn.Module, images: Tensor, engines: Sequence[str]) -> Benchmark:
    """Time uniform network decoupling beside the original."""
    networks = {"original": network}
    for rank in RANKS:
        plan = decompose.plan(network, images, method="pw_dw", rank=rank, skip=DENSE)
        networks[f"PW+DW, T={rank}"] = decompose.apply(plan, network)
    return time_side_by_side(
        networks,
        images,
        {name: get_engine(name) for name in engines},
        batch_sizes=BATCH_SIZES,
    )


def pace(
    network: nn.Module,
    images: Tensor,
    calibration: Tensor,
    statistics: Statistics,
    batch_size: int,
    share: float,
) -> dict[str, Any]:
    """Plan for a share of the original's time, repair, and measure error and speed."""
    example = images[:1].expand(batch_size, *images.shape[1:]).contiguous()
    plan = decompose.plan(
        network, example, latency=share, engine=PACED_ENGINE, calibrate=statistics
    )
    assert plan.pace is not None
    small = decompose.apply(plan, network, calibrate=calibration)
    timed = time_side_by_side(
        {"original": network, "mixture": small},
        images,
        {PACED_ENGINE: get_engine(PACED_ENGINE)},
        batch_sizes=(batch_size,),
        num_rounds=15,
    )
    error = Deviation.between(outputs(small, images), outputs(network, images)).relative
    return {
        "share": share,
        "batch_size": batch_size,
        "predicted": plan.pace.predicted_ms / plan.pace.original_ms,
        "planned": plan.pace.measured_ms / plan.pace.original_ms,
        "error": error,
        "timed": timed.to_dict(),
        "plan": json.loads(plan.to_json()),
    }


if __name__ == "__main__":
    typer.run(main)
