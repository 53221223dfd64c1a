"""``decompose sweep``: many budgets of one model, with a Pareto table and plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from decompose.cli.accuracy_budget import images_to_judge_on
from decompose.cli.common_options import with_panels
from decompose.cli.inputs import (
    blank_input,
    calibration_images,
    keep_preprocessing,
    parse_numbers,
    preprocessing_options,
    to_device,
)
from decompose.cli.loading import load_model
from decompose.cli.options import (
    NUM_IMAGES,
    SOURCES,
    Arch,
    Bgr,
    Calibrate,
    Device,
    Fix,
    InputSize,
    MaxImages,
    Mean,
    Scale,
    Skip,
    Std,
)
from decompose.cli.outputs import print_files, print_line, print_record, print_table
from decompose.compression.effort import DEFAULT_EFFORT, EFFORTS, effort_of
from decompose.data.images import default_workers
from decompose.data.synthetic import num_to_repair_on, synthetic_inputs
from decompose.evaluation.sweep.points import BUDGETS, SweepPoint, sweep_points
from decompose.evaluation.sweep.results import plot_sweep, sweep_table
from decompose.evaluation.sweep.run import ORIGINAL, Sweep, read_record
from decompose.evaluation.sweep.scores import Accuracies, OutputErrors, Score
from decompose.inference.engines import ENGINES
from decompose.utils.distributed import Processes
from decompose.utils.errors import DecomposeError
from decompose.utils.files import write_text
from decompose.utils.optional_dependencies import required

_SEED = 2
"""Of the synthetic inputs that errors are measured on: others than those of a repair."""

_SHARES = "Shares of {} to keep, each in (0, 1]: 0.75,0.5."


@with_panels(
    {
        "What to keep": "macs params latency engine batch threads skip",
        "What to use": "methods effort arch device only",
        "Images": "data subset calibrate max_images synthetic input_size fix scale mean std bgr",
        "Output": "output",
    }
)
def sweep_budgets(
    source: Annotated[str, typer.Argument(help=SOURCES)],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for models, records, table and plot; resumed if begun."
        ),
    ],
    arch: Arch = None,
    macs: Annotated[str | None, typer.Option(help=_SHARES.format("MACs"))] = None,
    params: Annotated[str | None, typer.Option(help=_SHARES.format("parameters"))] = None,
    latency: Annotated[str | None, typer.Option(help=_SHARES.format("time"))] = None,
    engine: Annotated[
        str | None,
        typer.Option(help=f"Engine that times models: {', '.join(ENGINES)}. Default: eager."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch size of times.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of times.")] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(help="Methods of the mixtures; repeat it to compare several sets."),
    ] = None,
    skip: Skip = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images to measure accuracy on: class folders, shards, or a folder without labels, "
            "where the original's classes serve as labels. Without: the error of the output."
        ),
    ] = None,
    subset: Annotated[
        int | None, typer.Option(min=1, help="Number of images of --data to draw.")
    ] = None,
    calibrate: Calibrate = None,
    max_images: MaxImages = None,
    synthetic: Annotated[
        bool,
        typer.Option("--synthetic", help="With --calibrate: also every budget without images."),
    ] = False,
    effort: Annotated[
        str, typer.Option(help=f"How long planning and repair may take: {', '.join(EFFORTS)}.")
    ] = DEFAULT_EFFORT,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Make this budget of the sweep alone, by its name (macs-0.5-images, "
            "params-0.3-synthetic), as one job of many; repeatable."
        ),
    ] = None,
    device: Device = "auto",
    input_size: InputSize = None,
    fix: Fix = None,
    scale: Scale = None,
    mean: Mean = None,
    std: Std = None,
    bgr: Bgr = False,
) -> None:
    """Compress a model to many budgets, and compare what each costs and loses.

    Statistics are gathered once. Budgets that a folder holds are not made again. Under accelerate launch or
    torchrun the processes share the budgets.
    """
    effort_of(effort)
    texts = dict(zip(BUDGETS, (macs, params, latency), strict=True))
    points = sweep_points(
        {name: parse_numbers(text, name) or () for name, text in texts.items() if text},
        on_images=(True, False) if synthetic and calibrate else (calibrate is not None,),
        methods=[tuple(names.split(",")) for names in methods or ()] or [()],
    )
    _require_effect(calibrate, data, subset, max_images, synthetic=synthetic)
    wanted = _chosen(points, only)
    model = to_device(load_model(source, arch, fix), device)
    example = blank_input(model, input_size)
    look = preprocessing_options(scale, mean, std, is_bgr=bgr)
    keep_preprocessing(model, example, look, required=bool(calibrate or data))
    example = example.expand(batch, *example.shape[1:]).contiguous()
    images, others = _images(calibrate, model, max_images or NUM_IMAGES)
    sweep = Sweep(
        model,
        example,
        output,
        _score(model, example, data, subset, others),
        images,
        tuple(skip or ()),
        engine,
        threads,
        effort,
    )
    processes = Processes.joined(example.device)
    if processes.is_first():
        sweep.gather_statistics(wanted)
        next(sweep.run([]))
    processes.share(None)
    for record in sweep.run(wanted[processes.index :: processes.count]):
        print_line(f"{record['name']}: {record.get('failed', 'done')}")
    processes.gather(None)
    if processes.is_first():
        _collect(source, output, points)


def _collect(source: str, folder: Path, points: Sequence[SweepPoint]) -> None:
    """Write and print what is there of a sweep."""
    original = read_record(folder / f"{ORIGINAL}.json")
    paths = [folder / f"{point.name}.json" for point in points]
    records = [read_record(path) for path in paths if path.exists()]
    files = [folder / "sweep.json", folder / "sweep.md"]
    record = {"source": source, ORIGINAL: original, "points": records}
    write_text(files[0], json.dumps(record, indent=1) + "\n")
    table = sweep_table(original, records)
    write_text(files[1], table.to_markdown())
    try:
        required("matplotlib.figure", "Matplotlib", "demo")
    except DecomposeError as error:
        print_line(f"No plot: {error}")
    else:
        files.append(folder / "sweep.svg")
        plot_sweep(original, records, files[-1])
    print_record(record)
    print_table(table)
    if missing := len(points) - len(records):
        print_line(f"{missing} of {len(points)} budgets are not made yet")
    print_files(*files)


def _chosen(points: Sequence[SweepPoint], only: Sequence[str] | None) -> list[SweepPoint]:
    """The points that this command makes."""
    if only is None:
        return list(points)
    by_name: Mapping[str, SweepPoint] = {point.name: point for point in points}
    if unknown := [name for name in only if name not in by_name]:
        raise DecomposeError(
            f"--only {unknown[0]}: the sweep has no such budget; there are: {', '.join(by_name)}"
        )
    return [by_name[name] for name in only]


def _require_effect(
    calibrate: Path | None,
    data: str | None,
    subset: int | None,
    max_images: int | None,
    *,
    synthetic: bool,
) -> None:
    if calibrate is None and (synthetic or max_images):
        raise DecomposeError("--synthetic and --max-images go with --calibrate")
    if data is None and subset:
        raise DecomposeError("--subset is how many images to draw of --data")


def _images(
    calibrate: Path | None, model: nn.Module, most: int
) -> tuple[list[Tensor] | None, list[Tensor]]:
    """The images to plan and repair on, and as many others of the folder where it holds them."""
    if calibrate is None:
        return None, []
    every = list(
        chain.from_iterable(x.split(1) for x in calibration_images(calibrate, model, 2 * most))
    )
    if len(every) < 2 * most:
        most = min(most, max(2, 3 * len(every) // 4))
    first, others = every[:most], every[most:]
    return list(torch.cat(first).split(16)), list(torch.cat(others).split(16)) if others else []


def _score(
    model: nn.Module, example: Tensor, data: str | None, subset: int | None, others: Any
) -> Score:
    """Accuracy where there is data; otherwise the error on other images, or on synthetic inputs."""
    if data is not None:
        images = images_to_judge_on(data, model)
        images = images if subset is None else images.subset(subset)
        return Accuracies.on(model, images, default_workers())
    if others:
        return OutputErrors(model, others, "images held out")
    num = num_to_repair_on(example)
    inputs = synthetic_inputs(example, model, num=num, seed=_SEED)
    return OutputErrors(model, inputs, "synthetic inputs")
