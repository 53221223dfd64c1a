"""``decompose push``: publish a model on the Hugging Face hub, or write its repository's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decompose.cli.inputs import blank_input
from decompose.cli.options import Arch, InputSize
from decompose.cli.outputs import (
    print_files,
    print_line,
    print_record,
)
from decompose.evaluation.model_card import model_card
from decompose.evaluation.records import read_record
from decompose.models import serialization
from decompose.models.hub import upload, write_folder
from decompose.utils.errors import DecomposeError


def push_model(
    source: Annotated[Path, typer.Argument(help="A .safetensors that compress wrote.")],
    repo: Annotated[str, typer.Argument(help="The repository on the hub: USER/NAME.")],
    folder: Annotated[
        Path | None, typer.Option(help="Write the files to this folder instead of publishing them.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    record: Annotated[
        Path | None,
        typer.Option(help="Record of evaluate -o, whose figures go on the card."),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="Licence of the weights, by its name on the hub: mit, apache-2.0."),
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="The original, by its name on the hub.")
    ] = None,
    arch: Arch = None,
    input_size: InputSize = None,
) -> None:
    """Publish a model on the Hugging Face hub, with a model card made from its plan and figures."""
    if serialization.read_header(source) is None:
        raise DecomposeError(f"{source}: is not a model that compress wrote")
    if folder is not None and private:
        raise DecomposeError("--private is for the hub; a folder is as private as you keep it")
    model = serialization.load(source, arch)
    card = model_card(
        model,
        blank_input(model, input_size),
        repo,
        record=None if record is None else read_record(record),
        license=license,
        base_model=base_model,
    )
    if folder is not None:
        print_files(*write_folder(source, card, folder))
    else:
        address = upload(source, card, repo, private=private)
        print_record({"repo": repo, "address": address})
        print_line(f"Published {address}")
