"""``decompose finetune``: from a rewritten network and pictures to a better one of the same plan."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from decompose.cli.inputs import load_pair, named_device, resized
from decompose.cli.options import SOURCES, Arch, InputSize, Markdown, Workers, settings_of
from decompose.cli.outputs import print_files, tell_unreadable
from decompose.data.folders import image_folder, labelled_images
from decompose.data.images import ImageDataset, default_workers
from decompose.models import serialization
from decompose.models.conversion import recomposed
from decompose.models.preprocessing import Transform
from decompose.training.blockwise import reconstruction_table
from decompose.training.finetuning import finetune, require_trainable
from decompose.training.recipe import Recipe
from decompose.utils.distributed import Processes
from decompose.utils.errors import DecomposeError
from decompose.utils.files import require_writable
from decompose.utils.tables import show_table


@settings_of(Recipe, after="arch", without=("workers", "seconds_between"))
def finetune_network(
    small: Annotated[str, typer.Argument(help="What compress made.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors to write.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Labelled pictures: class folders, ImageNet as torchvision lays it out (train), or "
            "WebDataset shards."
        ),
    ] = None,
    unlabelled: Annotated[
        Path | None, typer.Option(help="Folder of pictures without labels, instead of --data.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help=f"The original to learn from; {SOURCES}.")
    ] = None,
    arch: Arch = None,
    validate: Annotated[
        str | None, typer.Option(help="Judge on these pictures instead; as --data, but its val.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run was.")
    ] = False,
    recompose: Annotated[
        bool,
        typer.Option("--recompose", help="Multiply the factors back into dense convolutions."),
    ] = False,
    workers: Workers = None,
    input_size: InputSize = None,
    device: Annotated[str, typer.Option(help="cpu, or auto for what Accelerate finds.")] = "auto",
    tensorboard: Annotated[Path | None, typer.Option(help="Folder of a TensorBoard log.")] = None,
    table: Markdown = None,
    **settings: Any,
) -> None:
    """Train a rewritten network, on labels, on the original's features and outputs, or on both.

    Checkpoints lie beside the output, in a folder of its name with .checkpoints; --resume goes on from
    the last. Under torchrun or accelerate launch the processes share each batch.
    """
    require_writable(output, table)
    serialization.require_saved_name(output)
    if (data is None) == (unlabelled is None):
        raise DecomposeError("give pictures with labels (--data) or without (--unlabelled)")
    if teacher is None:
        _require_no_teacher(unlabelled, settings)
    recipe = Recipe(**settings, workers=default_workers() if workers is None else workers)
    original, network = _networks(teacher, small, arch)
    require_trainable(network)
    transform = resized(serialization.required_preprocessing(network).transform(), input_size)
    pictures, judged = _pictures(data, unlabelled, validate, transform)
    tuned = finetune(
        network,
        pictures,
        teacher=original,
        validation=judged,
        labelled=unlabelled is None,
        recipe=recipe,
        folder=output.with_name(f"{output.stem}.checkpoints"),
        resume=resume,
        device=device,
        tensorboard=tensorboard,
        tell=lambda line: print(line, file=sys.stderr),
    )
    if Processes.joined(named_device(device)).is_first():
        serialization.save(recomposed(tuned.network) if recompose else tuned.network, output)
        if tuned.blockwise:
            show_table(reconstruction_table(tuned.blockwise))
        show_table(tuned.table(), table)
        tell_unreadable(tuned.unreadable)
        print_files(output, table)


def _require_no_teacher(unlabelled: Path | None, settings: Mapping[str, Any]) -> None:
    """Check that nothing is to be learnt from an original where none is given."""
    if unlabelled is not None:
        raise DecomposeError("without labels there is only the original to learn from: --teacher")
    for name in ("features", "blockwise"):
        if settings[name]:
            raise DecomposeError(f"--{name}: learns from the original: --teacher")


def _networks(
    teacher: str | None, small: str, arch: str | None
) -> tuple[nn.Module | None, nn.Module]:
    """The original, if one is given, and the network to train."""
    return (
        (None, serialization.load(small, arch))
        if teacher is None
        else load_pair(teacher, small, arch)
    )


def _pictures(
    data: str | None, unlabelled: Path | None, validate: str | None, transform: Transform
) -> tuple[ImageDataset, ImageDataset | None]:
    """The pictures to train on, and others to judge on where they are given."""
    if unlabelled is not None:
        judged = None if validate is None else image_folder(validate, transform)
        return image_folder(unlabelled, transform), judged
    judged = None if validate is None else labelled_images(validate, transform)
    return labelled_images(str(data), transform, "train"), judged
