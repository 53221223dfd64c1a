"""``decompose report``: compressed models beside their original, as one web page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor, nn

from decompose.cli.inputs import FolderInputs, blank_input, named_device, parse_counts
from decompose.cli.loading import load_all
from decompose.cli.options import SOURCES, Arch, Device, InputSize
from decompose.cli.outputs import (
    print_files,
    print_record,
    print_unreadable,
)
from decompose.data.folders import labelled_images
from decompose.data.images import default_workers
from decompose.data.synthetic import synthetic_inputs
from decompose.evaluation.accuracy import Evaluation, evaluate
from decompose.evaluation.report.contents import make_report
from decompose.evaluation.report.page import render
from decompose.inference.benchmark import Benchmark, time_side_by_side
from decompose.inference.engines import ENGINES, get_engine
from decompose.models import serialization
from decompose.utils.errors import DecomposeError
from decompose.utils.files import require_writable, write_text
from decompose.utils.optional_dependencies import required

_NUM_SYNTHETIC = 16
"""Synthetic images to compare outputs on where no others are given."""


def report_models(
    small: Annotated[list[str], typer.Argument(help="Files that compress wrote.")],
    original: Annotated[str, typer.Option(help=f"The original model: {SOURCES}.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .html to write.")],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of images to compare outputs on. Default: synthetic ones."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Labelled images to measure accuracy on, as for evaluate --data."),
    ] = None,
    arch: Arch = None,
    max_images: Annotated[int, typer.Option(min=1, help="Most images to compare outputs on.")] = 64,
    subset: Annotated[
        int | None,
        typer.Option(min=1, help="Number of images of --data, equally many of each class."),
    ] = None,
    engines: Annotated[
        str, typer.Option(help=f"Engines to time the models in, of: {', '.join(ENGINES)}.")
    ] = "eager",
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1",
    timing: Annotated[bool, typer.Option(help="Time the models.")] = True,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Number of processes that decode images.")
    ] = None,
    input_size: InputSize = None,
    device: Device = "auto",
) -> None:
    """Write a report of compressed models beside their original: one page that opens in any browser."""
    require_writable(output)
    if output.suffix.lower() not in (".html", ".htm"):
        raise DecomposeError(f"{output}: a report is a web page: let its name end in .html")
    required("vl_convert", "vl-convert-python", "report")
    names = [original, *small]
    if len(set(names)) < len(names):
        raise DecomposeError("the same model is named twice")
    if any(map(serialization.is_onnx, names)):
        raise DecomposeError("ONNX models have no report: compress says what it changed in one")
    models = {name: model.to(named_device(device)) for name, model in load_all(names, arch).items()}
    example = blank_input(models[original], input_size)
    workers = default_workers() if workers is None else workers
    inputs, in_words = _inputs(images, models[original], example, max_images, workers)
    report = make_report(
        models,
        inputs,
        example=example,
        images_in_words=in_words,
        benchmark=_timed(models, example, engines, batch) if timing else None,
        evaluation=None if data is None else _evaluated(models, data, subset, workers),
    )
    if isinstance(inputs, FolderInputs):
        print_unreadable(inputs.unreadable)
    write_text(output, render(report))
    print_record({"original": original, "small": small, "output": str(output)})
    print_files(output)


def _inputs(
    images: Path | None, model: nn.Module, example: Tensor, most: int, workers: int
) -> tuple[Tensor | FolderInputs, str]:
    """The images to compare outputs on, and their description."""
    if images is None:
        inputs = synthetic_inputs(example, model, num=_NUM_SYNTHETIC)
        return inputs, f"{_NUM_SYNTHETIC} synthetic images, since no others were given"
    return FolderInputs(images, model, most, workers), f"images of {images}"


def _timed(models: dict[str, nn.Module], example: Tensor, engines: str, batch: str) -> Benchmark:
    chosen = {name: get_engine(name) for name in engines.split(",")}
    return time_side_by_side(models, example, chosen, batch_sizes=parse_counts(batch, "batch"))


def _evaluated(
    models: dict[str, nn.Module], data: str, subset: int | None, workers: int
) -> Evaluation:
    transforms = {
        name: serialization.required_preprocessing(model).transform()
        for name, model in models.items()
    }
    images = labelled_images(data, next(iter(transforms.values())))
    if subset is not None:
        images = images.subset(subset, seed=0)
    device = next(next(iter(models.values())).parameters()).device
    return evaluate(models, images, transforms=transforms, workers=workers, device=device)
