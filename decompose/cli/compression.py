"""``decompose compress``: from a source and a wish to a smaller network in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor, nn

from decompose import models
from decompose.candidates import RECIPES
from decompose.cli.inputs import (
    blank_input,
    calibration_pictures,
    load_network,
    parse_numbers,
    parse_ranks,
    tell_pictures,
)
from decompose.cli.options import SOURCES, Arch, Bgr, Fix, InputSize, Markdown, Mean, Scale, Std
from decompose.cli.outputs import tell_dense, tell_files, tell_pace
from decompose.comparison import compare_weights
from decompose.convert import apply
from decompose.engines import ENGINES
from decompose.errors import DecomposeError
from decompose.files import require_writable
from decompose.folding import fold_batchnorm
from decompose.methods import DEFAULT_METHOD, METHODS
from decompose.plans import Plan
from decompose.repair import repair_, repair_table
from decompose.report import show_table
from decompose.search import plan
from decompose.statistics import Statistics
from decompose.synthetic import synthetic_inputs
from decompose.weighing import measure

_NUM_SYNTHETIC = 8
"""Inputs that a network is repaired on without data; repair views them in several ways and adds others."""


def compress_network(
    source: Annotated[str, typer.Argument(help=SOURCES)],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="The .safetensors to write; of an ONNX model, the .onnx."
        ),
    ],
    arch: Arch = None,
    macs: Annotated[
        float | None, typer.Option(help="MACs to keep, in (0, 1]: the best mixture of methods.")
    ] = None,
    params: Annotated[
        float | None, typer.Option(help="Parameters to keep, in (0, 1]; instead of MACs.")
    ] = None,
    latency: Annotated[
        float | None, typer.Option(help="Time to keep, in (0, 1], in an engine; instead of MACs.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help=f"Where to be fast: {', '.join(ENGINES)}. Default: eager."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Inputs at a time that a latency is of. Default: 1.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads on the CPU that a latency is of.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help=f"What the mixture is made of. Default: {','.join(RECIPES)}.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"One method for all: {', '.join(METHODS)}; or some, one inside the other: "
            f"spatial+pw_dw. Default: {DEFAULT_METHOD}."
        ),
    ] = None,
    rank: Annotated[
        list[str] | None,
        typer.Option(
            help="Terms: N for all layers, or PATTERN=N for some; may be repeated, and the last "
            "that fits a layer counts."
        ),
    ] = None,
    energy: Annotated[
        float | None, typer.Option(help="Energy to keep in each layer, in (0, 1]; instead of rank.")
    ] = None,
    ratio: Annotated[
        float | None, typer.Option(help="How many times fewer weights each layer gets.")
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(help="Layers to leave dense, by name or pattern; repeatable."),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Folder of a few unlabelled pictures to plan and repair on."),
    ] = None,
    max_images: Annotated[int, typer.Option(min=2, help="Take no more of them than this.")] = 64,
    repair: Annotated[
        bool | None,
        typer.Option(
            "--repair/--no-repair",
            help="Refit each layer's last factors. Default: with --calibrate, or for a budget; "
            "without pictures on synthetic ones.",
        ),
    ] = None,
    statistics: Annotated[
        Path | None, typer.Option(help="Plan by these, which --save-statistics wrote.")
    ] = None,
    save_statistics: Annotated[
        Path | None,
        typer.Option(help="Keep what --calibrate measured, for plans of other budgets."),
    ] = None,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", help="Follow this plan (JSON) instead of a method and rank."),
    ] = None,
    save_plan: Annotated[
        Path | None, typer.Option(help="Also write the plan to this JSON file, to read and edit.")
    ] = None,
    fold: Annotated[
        bool,
        typer.Option(
            "--fold-batchnorm", help="First fold each BatchNorm into the layer that it follows."
        ),
    ] = False,
    input_size: InputSize = None,
    fix: Fix = None,
    scale: Scale = None,
    mean: Mean = None,
    std: Std = None,
    bgr: Bgr = False,
    table: Markdown = None,
) -> None:
    """Rewrite a network's convolutions as smaller ones, without training."""
    require_writable(output, save_plan, save_statistics, table)
    models.require_saved_name(output, is_onnx=models.is_onnx(source))
    wish = {
        "macs": macs,
        "params": params,
        "latency": latency,
        "engine": engine,
        "threads": threads,
        "methods": methods.split(",") if methods else None,
        "method": method,
        "rank": parse_ranks(rank) if rank else None,
        "energy": energy,
        "ratio": ratio,
    }
    given = {name for name, value in wish.items() if value is not None}
    budgeted = bool(given & {"macs", "params", "latency"})
    if plan_file is not None and (skip or given):
        raise DecomposeError("--plan holds all choices; give no budget, method, rank or skip")
    if (statistics or save_statistics) and not budgeted:
        raise DecomposeError(
            "statistics are what a budget is planned by: --macs, --params, --latency"
        )
    if batch is not None and latency is None:
        raise DecomposeError("--batch is what a latency is of; give --latency")
    if save_statistics and not calibrate:
        raise DecomposeError("--save-statistics keeps what was measured on pictures: --calibrate")
    choices = None if plan_file is None else Plan.load(plan_file)
    network = load_network(source, arch, fix)
    example = blank_input(network, input_size)
    look = {
        "scale": scale,
        "means": parse_numbers(mean, "mean"),
        "deviations": parse_numbers(std, "std"),
        "is_bgr": bgr or None,
    }
    tell_pictures(network, example, look, required=calibrate is not None)
    if fold:
        network = fold_batchnorm(network, example)
    example = example.expand(batch or 1, *example.shape[1:]).contiguous()
    pictures = None if calibrate is None else calibration_pictures(calibrate, network, max_images)
    if choices is None:
        seen: Any = pictures if budgeted else None
        if statistics is not None:
            seen = Statistics.load(statistics)
        if save_statistics is not None and pictures is not None:
            seen = measure(network, example, pictures, methods=wish["methods"], skip=skip or ())
            seen.save(save_statistics)
        choices = plan(network, example, skip=skip or (), calibrate=seen, **wish)
    small = apply(choices, network)
    if repair is True or (repair is None and (calibrate or budgeted)):
        _repair(small, network, example, pictures)
    comparison = compare_weights(network, small, example)
    models.save(small, output)
    if save_plan is not None:
        choices.save(save_plan)
    show_table(comparison.table(), table)
    tell_dense(choices)
    tell_pace(choices)
    tell_files(output, save_plan, save_statistics, table)


def _repair(
    small: nn.Module, network: nn.Module, example: Tensor, pictures: Sequence[Tensor] | None
) -> None:
    images = pictures or synthetic_inputs(example, network, num=_NUM_SYNTHETIC)
    show_table(repair_table(repair_(small, network, images)))
