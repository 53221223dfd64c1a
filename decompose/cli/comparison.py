"""``decompose compare``: a model beside the smaller one made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from decompose.cli.inputs import (
    FolderInputs,
    blank_input,
    give_preprocessing,
    named_device,
    preprocessing_options,
)
from decompose.cli.loading import load_pair
from decompose.cli.options import (
    SOURCES,
    Arch,
    Bgr,
    Device,
    Fix,
    InputSize,
    Markdown,
    Mean,
    Record,
    Scale,
    Std,
    Workers,
)
from decompose.cli.outputs import (
    print_files,
    print_line,
    print_record,
    print_table,
    print_unreadable,
    write_record,
    write_table,
)
from decompose.data.images import default_workers
from decompose.evaluation.comparison import Comparison, compare, compare_weights
from decompose.evaluation.output_comparison import OutputComparison, compare_outputs
from decompose.inference.engine_models import EngineModel, in_engine
from decompose.utils.errors import DecomposeError
from decompose.utils.files import require_writable, writing_together


def compare_models(
    original: Annotated[str, typer.Argument(help=SOURCES)],
    small: Annotated[
        str,
        typer.Argument(
            help="The smaller model that compress wrote, or an ONNX or OpenVINO model made from it by "
            "any tool."
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of images to compare outputs on. Default: compare weights only."),
    ] = None,
    arch: Arch = None,
    max_images: Annotated[int, typer.Option(min=1, help="Most images to take.")] = 256,
    workers: Workers = None,
    input_size: InputSize = None,
    fix: Fix = None,
    scale: Scale = None,
    mean: Mean = None,
    std: Std = None,
    bgr: Bgr = False,
    device: Device = "auto",
    output: Record = None,
    table: Markdown = None,
) -> None:
    """Compare a model with the smaller one: MACs, parameters, weight and output error.

    Of ONNX and OpenVINO models, which run in their engines, outputs alone are compared.
    """
    require_writable(output, table, inputs=[original, small])
    where = named_device(device)
    look = preprocessing_options(scale, mean, std, is_bgr=bgr)
    before, after = (in_engine(model).to(where) for model in load_pair(original, small, arch, fix))
    give_preprocessing([(original, before), (small, after)], look, input_size)
    unreadable = {}
    comparison: Comparison | OutputComparison
    if isinstance(before, EngineModel) or isinstance(after, EngineModel):
        inputs = [
            _folder_inputs(images, model, max_images, workers, input_size)
            for model in (before, after)
        ]
        comparison = compare_outputs(before, after, zip(*inputs, strict=True))
        unreadable = inputs[0].unreadable
    elif images is None:
        comparison = compare_weights(before, after, blank_input(before, input_size))
    else:
        seen = _folder_inputs(images, before, max_images, workers, input_size)
        comparison = compare(before, after, seen)
        unreadable = seen.unreadable
    record = {"original": original, "small": small, "images": str(images) if images else None}
    record |= {**comparison.to_dict(), "unreadable": unreadable}
    with writing_together():
        write_record(output, record)
        write_table(table, comparison.table())
    print_record(record)
    print_table(comparison.table())
    if comparison.agreement is not None:
        print_line(
            f"Same top-1 class: {comparison.agreement:.1%} of {comparison.num_inputs} images"
        )
    print_unreadable(unreadable)
    print_files(output, table)


def _folder_inputs(
    images: Path | None,
    model: nn.Module,
    most: int,
    workers: int | None,
    input_size: str | None,
) -> FolderInputs:
    if images is None:
        raise DecomposeError(
            "an ONNX or OpenVINO model is compared by its outputs alone, since its nodes are no layers "
            "of the original's: give --images"
        )
    workers = default_workers() if workers is None else workers
    return FolderInputs(images, model, most, workers, input_size)
