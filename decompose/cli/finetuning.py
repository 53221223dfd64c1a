"""``decompose finetune``: train a decomposed model; it keeps its plan."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from decompose.cli.inputs import named_device, preprocessing_options, resized
from decompose.cli.loading import load_pair
from decompose.cli.options import (
    SOURCES,
    Arch,
    Bgr,
    Fix,
    InputSize,
    Markdown,
    Mean,
    Scale,
    Std,
    Workers,
    settings_of,
)
from decompose.cli.outputs import (
    is_quiet,
    print_files,
    print_record,
    print_table,
    print_unreadable,
    write_table,
)
from decompose.data.folders import image_folder, labelled_images
from decompose.data.images import ImageDataset, default_workers
from decompose.inference.engine_models import EngineModel, in_engine
from decompose.models import serialization
from decompose.models.conversion import recomposed
from decompose.models.preprocessing import ImagePreprocessing, Renormalized, Transform
from decompose.training.blockwise import reconstruction_table
from decompose.training.finetuning import finetune, require_trainable
from decompose.training.recipe import Recipe
from decompose.utils.distributed import Processes
from decompose.utils.errors import DecomposeError
from decompose.utils.files import require_writable, writing_together


@settings_of(Recipe, after="arch", without=("workers", "seconds_between"))
def finetune_model(
    small: Annotated[str, typer.Argument(help="A model that compress wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors to write.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Labelled images: class folders, ImageNet in torchvision's layout (train), or "
            "WebDataset shards."
        ),
    ] = None,
    unlabelled: Annotated[
        Path | None, typer.Option(help="Folder of images without labels, instead of --data.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help=f"The original to learn from; {SOURCES}. Of an ONNX model, which runs in ONNX Runtime, the "
            "outputs alone."
        ),
    ] = None,
    arch: Arch = None,
    validate: Annotated[
        str | None,
        typer.Option(
            help="Images to validate on, as for --data (val). Default: a share of --data."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = False,
    recompose: Annotated[
        bool,
        typer.Option("--recompose", help="Multiply the factors back into dense convolutions."),
    ] = False,
    workers: Workers = None,
    input_size: InputSize = None,
    fix: Fix = None,
    scale: Scale = None,
    mean: Mean = None,
    std: Std = None,
    bgr: Bgr = False,
    device: Annotated[
        str, typer.Option(help="cpu, or auto for the device that Accelerate finds.")
    ] = "auto",
    tensorboard: Annotated[Path | None, typer.Option(help="Folder of a TensorBoard log.")] = None,
    table: Markdown = None,
    **settings: Any,
) -> None:
    """Train a decomposed model, on labels, on the original's features and outputs, or on both.

    Checkpoints lie beside the output, in a folder of its name with .checkpoints; --resume goes on from
    the last. Under torchrun or accelerate launch the processes share each batch.
    """
    require_writable(output, table, inputs=[small, teacher])
    serialization.require_saved_name(output)
    if (data is None) == (unlabelled is None):
        raise DecomposeError("give images with labels (--data) or without (--unlabelled)")
    if teacher is None:
        _require_no_teacher(unlabelled, settings)
    recipe = Recipe(**settings, workers=default_workers() if workers is None else workers)
    original, model = _models(teacher, small, arch, fix)
    require_trainable(model)
    transform = resized(serialization.required_preprocessing(model).transform(), input_size)
    look = preprocessing_options(scale, mean, std, is_bgr=bgr)
    if look:
        original = _renormalized(original, transform, look)
    images, validation = _images(data, unlabelled, validate, transform)
    tuned = finetune(
        model,
        images,
        teacher=original,
        validation=validation,
        labelled=unlabelled is None,
        recipe=recipe,
        folder=output.with_name(f"{output.stem}.checkpoints"),
        resume=resume,
        device=device,
        tensorboard=tensorboard,
        tell=_report,
    )
    if Processes.joined(named_device(device)).is_first():
        with writing_together():
            serialization.save(recomposed(tuned.network) if recompose else tuned.network, output)
            write_table(table, tuned.table())
        record = {
            "output": str(output),
            "measure": tuned.measure,
            "before": tuned.before,
            "best": tuned.best,
            "history": [asdict(epoch) for epoch in tuned.history],
            "blockwise": [asdict(layer) for layer in tuned.blockwise],
            "unreadable": dict(tuned.unreadable),
        }
        print_record(record)
        if tuned.blockwise:
            print_table(reconstruction_table(tuned.blockwise))
        print_table(tuned.table())
        print_unreadable(tuned.unreadable)
        print_files(output, table)


def _report(line: str) -> None:
    """Print one line an epoch on standard error."""
    if not is_quiet():
        print(line, file=sys.stderr)


def _require_no_teacher(unlabelled: Path | None, settings: Mapping[str, Any]) -> None:
    """Check that no setting needs an original where none is given."""
    if unlabelled is not None:
        raise DecomposeError("without labels there is only the original to learn from: --teacher")
    for name in ("features", "blockwise"):
        if settings[name]:
            raise DecomposeError(f"--{name}: learns from the original: --teacher")


def _models(
    teacher: str | None, small: str, arch: str | None, fix: Sequence[str] | None
) -> tuple[nn.Module | None, nn.Module]:
    """The original, if one is given, and the model to train."""
    if teacher is None:
        if fix:
            raise DecomposeError("--fix is for the inputs of an ONNX teacher: --teacher")
        return None, serialization.load(small, arch)
    original, model = load_pair(teacher, small, arch, fix)
    return in_engine(original), model


def _renormalized(
    teacher: nn.Module | None, transform: Transform, look: Mapping[str, Any]
) -> Renormalized:
    """The teacher, its images normalised as the options say rather than as the model's."""
    if not isinstance(teacher, EngineModel):
        raise DecomposeError(
            "--scale, --mean, --std and --bgr are for the images of an ONNX teacher"
        )
    mean, std = getattr(transform, "mean", None), getattr(transform, "std", None)
    if mean is None or std is None:
        raise DecomposeError(
            "the model's preprocessing names no mean and deviation that the teacher's could replace"
        )
    shape = (len(mean), 1, 1)
    return Renormalized(teacher, mean, std, ImagePreprocessing.of(shape, **look))


def _images(
    data: str | None, unlabelled: Path | None, validate: str | None, transform: Transform
) -> tuple[ImageDataset, ImageDataset | None]:
    """The images to train on, and others to validate on where they are given."""
    if unlabelled is not None:
        validation = None if validate is None else image_folder(validate, transform)
        return image_folder(unlabelled, transform), validation
    validation = None if validate is None else labelled_images(validate, transform)
    return labelled_images(str(data), transform, "train"), validation
