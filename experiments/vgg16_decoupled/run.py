"""VGG16's real ImageNet convolutions, decoupled data-free to under half the MACs.

Reproduces the first claim of Guo et al., "Network Decoupling" (BMVC 2018): a few depthwise
separable terms hold most of a pretrained convolution, so a network can be rewritten without data
and without training. PW+DW, four terms, conv1_1 left as it is. Beside it, at the same MACs, the mixture
of both orders and spatial decomposition that loses the least, found without data as well and
repaired on synthetic images.

    python -m experiments.vgg16_decoupled.run --output runs/demo        (``make demo``)

Three minutes on two cores. Expect 2.12x fewer MACs, a relative error of about 0.18 in pool5 on
twelve photographs, a tenth of that for the mixture, and DW+PW behind PW+DW at every rank. ``table.py``
renders the figures.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

import decompose
from decompose.algebra import Deviation
from decompose.data.bundled import photographs
from decompose.evaluation.inspection import inspect_layers
from decompose.evaluation.plots import plot_spectra
from decompose.inference.benchmark import time_side_by_side
from decompose.inference.engines import Eager
from decompose.layers.costs import count_macs, trace_shapes
from decompose.layers.forward import outputs
from decompose.models.architectures import OFFLINE_VGG16, Architecture
from decompose.utils.batches import in_channels_last
from decompose.utils.environment import environment
from decompose.utils.progress import track
from experiments.common.plots import Point, plot_error_against_macs
from experiments.common.records import keep, publish
from experiments.vgg16_decoupled.probe import classify_digits
from experiments.vgg16_decoupled.table import tables

METHOD, RANK = "pw_dw", 4
ORDERS = ("pw_dw", "dw_pw")
DENSE = ("conv1_1",)
SWEPT_RANKS = range(2, 6)
MIXED_METHODS = ("pw_dw", "dw_pw", "spatial")
NUM_SYNTHETIC = 8
DECOUPLING_RUNS = 5
TIMING_ROUNDS = 5


def main(
    output: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path(
        "runs/vgg16_decoupled"
    ),
) -> None:
    """Decouple VGG16, measure what was gained and lost, and write it all down."""
    output.mkdir(parents=True, exist_ok=True)
    network = decompose.load(OFFLINE_VGG16)
    _, images = photographs(Architecture.parse(OFFLINE_VGG16).transform())
    images = in_channels_last(images)
    plan = decompose.plan(network, images[:1], method=METHOD, rank=RANK, skip=DENSE)
    small = decompose.apply(plan, network)
    plan.save(output / "plan.json")
    decompose.save(small, output / "vgg16-decoupled.safetensors")

    comparison = decompose.compare(network, small, images)
    mixture = mix(network, images, comparison.macs.after / comparison.macs.before, output)
    networks = {"original": network, "decoupled": small, "mixture": mixture}
    curves = sweep(network, images)
    record = {
        "environment": environment(),
        "decoupling_s": time_decoupling(network, images[:1]),
        "comparison": comparison.to_dict(),
        "mixture": decompose.compare(network, mixture, images).to_dict(),
        "sweep": {
            method: [point._asdict() for point in points] for method, points in curves.items()
        },
        "digits": classify_digits(networks),
        "latency": time_side_by_side(
            networks, images, {"eager": Eager()}, num_rounds=TIMING_ROUNDS
        ).to_dict(),
    }
    keep(record, output / "results.json")
    plot_spectra(inspect_layers(network, images[:1]), output / "spectrum.png")
    plot_error_against_macs(
        curves,
        comparison.macs.before,
        output / "error_against_macs.png",
        title=f"VGG16's pool5 features on {len(images)} photographs, {', '.join(DENSE)} dense",
    )
    publish(tables(record), output, num_shown=2)


def mix(network: nn.Module, images: Tensor, share: float, output: Path) -> nn.Module:
    """The best mixture for a share of the MACs, without data, repaired on synthetic images."""
    nothing = torch.zeros_like(images[:1])
    plan = decompose.plan(network, nothing, macs=share, methods=MIXED_METHODS)
    plan.save(output / "mixture.json")
    synthetic = decompose.synthetic_inputs(nothing, network, num=NUM_SYNTHETIC)
    mixture = decompose.apply(plan, network, calibrate=synthetic)
    decompose.save(mixture, output / "vgg16-mixture.safetensors")
    return mixture


def sweep(network: nn.Module, images: Tensor) -> dict[str, list[Point]]:
    """Cost and output error at several ranks, for both orders.

    Args:
        network: the original.
        images: ``(batch, 3, H, W)``.
    """
    shapes = trace_shapes(network, images)
    expected = outputs(network, images)
    curves: dict[str, list[Point]] = {method: [] for method in ORDERS}
    todo = [(method, rank) for method in ORDERS for rank in SWEPT_RANKS]
    for method, rank in track(todo, "error against MACs"):
        plan = decompose.plan(network, images[:1], method=method, rank=rank, skip=DENSE)
        small = decompose.apply(plan, network)
        error = Deviation.between(outputs(small, images), expected).relative
        curves[method].append(Point(rank, sum(count_macs(small, shapes).values()), error))
    return curves


def time_decoupling(network: nn.Module, example: Tensor) -> dict[str, float]:
    """Seconds that ``apply`` takes for the whole network, by order: the median of a few runs."""
    seconds = {}
    for method in ORDERS:
        plan = decompose.plan(network, example, method=method, rank=RANK, skip=DENSE)
        runs = []
        for _ in range(DECOUPLING_RUNS):
            start = time.perf_counter()
            decompose.apply(plan, network)
            runs.append(time.perf_counter() - start)
        seconds[method] = median(runs)
    return seconds


if __name__ == "__main__":
    typer.run(main)
