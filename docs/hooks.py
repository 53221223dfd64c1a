"""What the pages show besides their own text: the command's options, and the experiments' images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File, Files

from decompose.cli.commands import app

ROOT = Path(__file__).parents[1]
IMAGES = (
    "vgg16_decoupled/idea.png",
    "vgg16_decoupled/spectrum.png",
    "vgg16_decoupled/error_against_macs.png",
    "budget/error_against_macs.png",
    "speed/speed_up.png",
    "questions/why/spectra.png",
)
"""Images of the experiments, which pages name as ``images/`` and the same path."""


def on_files(files: Files, config: Any) -> Files:
    """Serve the experiments' images beside the pages."""
    for name in IMAGES:
        path = str(ROOT / "experiments" / name)
        files.append(File.generated(config, f"images/{name}", abs_src_path=path))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the command's options where a page asks for them."""
    mark = "<!-- every command and its options -->"
    return markdown.replace(mark, command_line()) if mark in markdown else markdown


def command_line() -> str:
    """Every command with its arguments and options, as Markdown."""
    group: Any = typer.main.get_command(app)
    return "\n\n".join(_command(name, command) for name, command in group.commands.items())


def _command(name: str, command: Any) -> str:
    rows = [
        f"| {_cell(parameter)} | {_escaped(parameter.help or '')} |"
        for parameter in command.params
        if parameter.name != "help"
    ]
    table = "\n".join(["| argument or option | meaning |", "| --- | --- |", *rows])
    return f"## decompose {name}\n\n{command.help}\n\n{table}"


def _cell(parameter: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    words = parameter.name.upper() if parameter.param_type_name == "argument" else ", ".join(names)
    return f"`{words}`" + (" (required)" if parameter.required else "")


def _escaped(text: str) -> str:
    for character in "|*_<[":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
