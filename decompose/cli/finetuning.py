"""``decompose finetune``: from a rewritten network and pictures to a better one of the same plan."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from decompose.cli.inputs import load_pair, named_device, resized
from decompose.cli.options import SOURCES, Arch, InputSize, Markdown
from decompose.cli.outputs import print_files, tell_unreadable
from decompose.data.folders import image_folder, labelled_images
from decompose.data.images import ImageDataset, default_workers
from decompose.models import serialization
from decompose.models.conversion import recomposed
from decompose.models.preprocessing import Transform
from decompose.training.blockwise import reconstruction_table
from decompose.training.finetuning import finetune, require_trainable
from decompose.training.recipe import OPTIMISERS, PRECISIONS, Recipe
from decompose.utils.distributed import Processes
from decompose.utils.errors import DecomposeError
from decompose.utils.files import require_writable
from decompose.utils.tables import show_table

_DEFAULT = Recipe()


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
    epochs: Annotated[int, typer.Option(help="Passes over the pictures.")] = _DEFAULT.epochs,
    batch_size: Annotated[
        int, typer.Option(help="Pictures a step, of all processes together.")
    ] = _DEFAULT.batch_size,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="At its highest. Default: 0.01 with sgd, 0.0001 with adamw."),
    ] = None,
    optimiser: Annotated[
        str, typer.Option(help=f"One of: {', '.join(OPTIMISERS)}.")
    ] = _DEFAULT.optimiser,
    warmup: Annotated[
        float, typer.Option(help="Share of the steps in which the learning rate rises.")
    ] = _DEFAULT.warmup,
    weight_decay: Annotated[
        float, typer.Option(help="Of dense weights, and of the kernels that factors compose to.")
    ] = _DEFAULT.weight_decay,
    labels: Annotated[
        float, typer.Option(help="Weight of the cross-entropy with the labels.")
    ] = _DEFAULT.labels,
    outputs: Annotated[
        float, typer.Option(help="Weight of the distance from the original's outputs.")
    ] = _DEFAULT.outputs,
    features: Annotated[
        float | None,
        typer.Option(
            help="Weight of the distance from the original's layers. Default: 0; without labels 1."
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="That class scores are softened by to be compared.")
    ] = _DEFAULT.temperature,
    smoothing: Annotated[float, typer.Option(help="Of labels.")] = _DEFAULT.smoothing,
    blockwise: Annotated[
        int, typer.Option(help="Steps a layer of a first stage without labels; 200 are many.")
    ] = _DEFAULT.blockwise,
    accumulate: Annotated[
        int, typer.Option(help="Parts that a process takes its share of a batch in.")
    ] = _DEFAULT.accumulate,
    clip: Annotated[
        float, typer.Option(help="Largest norm of a step's gradient; 0 for any.")
    ] = _DEFAULT.clip or 0.0,
    precision: Annotated[
        str | None,
        typer.Option(
            help=f"Mixed precision, of: {', '.join(PRECISIONS)}. Default: as accelerate launch says."
        ),
    ] = None,
    holdout: Annotated[
        float, typer.Option(help="Share of the pictures to judge on, of all classes alike.")
    ] = _DEFAULT.holdout,
    validate: Annotated[
        str | None, typer.Option(help="Judge on these pictures instead; as --data, but its val.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better score.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run was.")
    ] = False,
    recompose: Annotated[
        bool,
        typer.Option("--recompose", help="Multiply the factors back into dense convolutions."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = _DEFAULT.seed,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode.")] = None,
    input_size: InputSize = None,
    device: Annotated[str, typer.Option(help="cpu, or auto for what Accelerate finds.")] = "auto",
    tensorboard: Annotated[Path | None, typer.Option(help="Folder of a TensorBoard log.")] = None,
    table: Markdown = None,
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
        _require_no_teacher(unlabelled, {"--features": features, "--blockwise": blockwise})
    recipe = Recipe(
        epochs=epochs,
        batch_size=batch_size,
        optimiser=optimiser,
        learning_rate=learning_rate,
        warmup=warmup,
        weight_decay=weight_decay,
        labels=labels,
        outputs=outputs,
        features=features,
        temperature=temperature,
        smoothing=smoothing,
        blockwise=blockwise,
        accumulate=accumulate,
        clip=clip or None,
        precision=precision,
        holdout=holdout,
        patience=patience,
        seed=seed,
        workers=default_workers() if workers is None else workers,
    )
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


def _require_no_teacher(unlabelled: Path | None, learnt: Mapping[str, float | None]) -> None:
    """Check that nothing is to be learnt from an original where none is given."""
    if unlabelled is not None:
        raise DecomposeError("without labels there is only the original to learn from: --teacher")
    for name, weight in learnt.items():
        if weight:
            raise DecomposeError(f"{name}: learns from the original: --teacher")


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
