"""Figures committed as a record, and the tables that follow from it without measuring again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from decompose.utils.errors import DecomposeError
from decompose.utils.files import write_text
from decompose.utils.tables import Table, show_table

Tables = Callable[[Mapping[str, Any]], Sequence[Table]]
"""From a record to its tables; the first is the one that a README quotes."""


def take_up(path: Path, setting: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier run wrote, to go on from; where there is none, a record of the setting, written.

    Args:
        path: of the record, in a folder that is made where it is not there.
        setting: what is to be measured on, ready for JSON.

    Raises:
        DecomposeError: the earlier run was of something else.
    """
    # As it reads once it is written: tuples are lists there.
    setting = json.loads(json.dumps(setting))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        # At once, so that what is kept beside it is known by its setting.
        keep({"setting": setting}, path)
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["setting"] != setting:
        raise DecomposeError(f"{path}: holds figures of another setting; give another --output")
    return record


def keep(record: Mapping[str, Any], path: Path) -> None:
    """Write a record, whole or not at all."""
    write_text(path, json.dumps(record, indent=1) + "\n")


def publish(tables: Sequence[Table], folder: Path, *, num_shown: int | None = None) -> None:
    """Write tables to the results.md of a run's folder, show the first, and name the other files there.

    Args:
        tables: to write.
        folder: of the run.
        num_shown: how many to show; all by default.
    """
    write_text(folder / "results.md", render(tables))
    for table in tables[:num_shown]:
        show_table(table)
    print(f"\nFiles in {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


def render(tables: Sequence[Table]) -> str:
    """Tables as one Markdown text."""
    return "\n".join(table.to_markdown() for table in tables)


def render_or_check(arguments: Sequence[str], folder: Path, readme: Path, tables_of: Tables) -> int:
    """Write results.md from results.json, or with ``--check`` see that it still follows from it.

    Args:
        arguments: of the command line.
        folder: where both files lie.
        readme: what quotes the first table.
        tables_of: what makes the tables of the record.

    Returns:
        The exit code: 1 where a file does not say what the record says.
    """
    source, results = folder / "results.json", folder / "results.md"
    tables = tables_of(json.loads(source.read_text(encoding="utf-8")))
    if list(arguments) != ["--check"]:
        write_text(results, render(tables))
        return 0
    stale = []
    if results.read_text(encoding="utf-8") != render(tables):
        stale.append(results)
    if tables[0].to_markdown() not in readme.read_text(encoding="utf-8"):
        stale.append(readme)
    for path in stale:
        print(f"{path}: its table does not follow from {source}", file=sys.stderr)
    return 1 if stale else 0


def format_spread(values: Sequence[float], sign: str = "-", decimals: int = 1) -> str:
    """Mean and standard deviation of two values or more: 91.2 ± 0.3.

    Args:
        values: what was measured several times.
        sign: ``+`` shows it before positive means as well.
        decimals: of both.
    """
    return f"{mean(values):{sign}.{decimals}f} ± {stdev(values):.{decimals}f}"
