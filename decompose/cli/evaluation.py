"""``decompose evaluate``: the accuracy of models, in one pass over images."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

import torch
import typer
from torch import nn

from decompose.cli.inputs import (
    give_preprocessing,
    named_device,
    preprocessing_options,
    transform_of,
)
from decompose.cli.loading import load_all
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
from decompose.data.folders import labelled_images
from decompose.data.images import default_workers
from decompose.data.voc import voc_dataset
from decompose.evaluation.accuracy import evaluate
from decompose.evaluation.detection import categories_of, evaluate_detectors
from decompose.evaluation.predictions import forget
from decompose.inference.engine_models import EngineModel, in_engine
from decompose.models.architectures import Architecture, architecture_of
from decompose.utils.distributed import Processes
from decompose.utils.environment import environment
from decompose.utils.errors import DecomposeError
from decompose.utils.files import require_writable, writing_together

_BATCH_SIZES = {"classification": 32, "detection": 4}
_SIZES_IN_WORDS = ", ".join(f"{size} for {task}" for task, size in _BATCH_SIZES.items())


def evaluate_models(
    model: Annotated[
        list[str],
        typer.Argument(
            help=f"Models; the first is the baseline. Each: {SOURCES}; or an OpenVINO model: .xml. "
            "ONNX models run in ONNX Runtime, in the preprocessing of the first of the others, unless "
            "--scale, --mean, --std or --bgr say another."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Class folders, or ImageNet in torchvision's layout, or WebDataset "
            "shards: a .tar, a folder of them, a pattern or an address (s3://bucket/val-*.tar). For "
            "detection: a folder in VOC's layout, such as VOC2007."
        ),
    ],
    task: Annotated[
        Literal["classification", "detection"],
        typer.Option(
            help="Task of the models: measures top-1 and top-5, or mean average precision."
        ),
    ] = "classification",
    arch: Arch = None,
    subset: Annotated[
        int | None,
        typer.Option(min=1, help="Number of images to draw, equally many of each class."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the subset's draw.")] = 0,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help=f"Batch size. Default: {_SIZES_IN_WORDS}.")
    ] = None,
    workers: Workers = None,
    device: Device = "auto",
    precision: Annotated[
        Literal["own", "float16", "bfloat16"],
        typer.Option(help="Precision of products, by automatic mixed precision."),
    ] = "own",
    input_size: InputSize = None,
    fix: Fix = None,
    scale: Scale = None,
    mean: Mean = None,
    std: Std = None,
    bgr: Bgr = False,
    output: Record = None,
    table: Markdown = None,
) -> None:
    """Measure the accuracy of models, in one pass over the images.

    With --output an interrupted run of classifiers goes on where it was. Under torchrun or accelerate
    launch the processes share the images.
    """
    require_writable(output, table, inputs=model)
    if len(set(model)) < len(model):
        raise DecomposeError("the same model is named twice")
    look = preprocessing_options(scale, mean, std, is_bgr=bgr)
    models = {name: in_engine(loaded) for name, loaded in load_all(model, arch, fix).items()}
    if precision != "own" and any(isinstance(each, EngineModel) for each in models.values()):
        raise DecomposeError(
            "an ONNX or OpenVINO model runs in its own precision; give no --precision"
        )
    give_preprocessing([*models.items()], look, input_size)
    transforms = {name: transform_of(loaded, input_size) for name, loaded in models.items()}
    where = named_device(device)
    options: dict[str, Any] = {
        "transforms": transforms,
        "batch_size": batch_size or _BATCH_SIZES[task],
        "workers": default_workers() if workers is None else workers,
        "device": where,
        "precision": None if precision == "own" else getattr(torch, precision),
    }
    if task == "detection":
        scenes = voc_dataset(data, transforms[model[0]])
        categories = {
            name: categories_of(_required_architecture(name, loaded))
            for name, loaded in models.items()
        }
        chosen = scenes if subset is None else scenes.subset(subset, seed)
        found = evaluate_detectors(models, chosen, categories, **options)
    else:
        images = labelled_images(data, transforms[model[0]])
        chosen = images if subset is None else images.subset(subset, seed)
        found = evaluate(models, chosen, record=output, **options)
    if not Processes.joined(where).is_first():
        return
    # A folder by its full name: a record that says "." is of no use later.
    source = os.path.abspath(data) if os.path.exists(data) else data
    asked = {"models": model, "data": source, "task": task, "subset": subset, "seed": seed}
    record = {**asked, **found.to_dict(), "environment": environment(where)}
    with writing_together():
        write_record(output, record)
        write_table(table, found.table())
    if output is not None:
        forget(output)
    print_record(record)
    print_table(found.table())
    if found.throughput is not None:
        print_line(found.throughput)
    print_unreadable(found.unreadable)
    print_files(output, table)


def _required_architecture(name: str, model: nn.Module) -> Architecture:
    architecture = architecture_of(model)
    if architecture is None:
        raise DecomposeError(
            f"{name}: the names of its classes follow from an architecture, and it names none"
        )
    return architecture
