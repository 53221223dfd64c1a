"""Render the figures of ``run.py``, without computing any of them again.

python -m experiments.int8.table            writes results.md from results.json
python -m experiments.int8.table --check    fails unless results.md and the README here say what
                                            results.json says
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decompose.utils.tables import Table
from experiments.common.records import render_or_check

FOLDER = Path(__file__).parent
MULTIPLES = "multiples"


def summarize(record: Mapping[str, Any]) -> list[Table]:
    """A table of all models, and one of ranks in multiples where they were measured."""
    every = [found for name, found in record.items() if name != MULTIPLES]
    places = list(every[0]["rows"][0]["milliseconds"])
    rows = [row for found in every for row in _rows(found, places)]
    first = every[0]
    versions = ", ".join(f"{engine} {version}" for engine, version in first["versions"].items())
    title = (
        f"Relative error or top-1 (%), in brackets the 95 % interval; weights of {first['weight_bits']} bits; CPU ms on "
        f"one thread, {first['machine']}; {versions}"
    )
    columns = ["", "MMACs", "MB", "error or top-1", "INT8 - float", *(f"{p}, ms" for p in places)]
    tables = [Table(title, columns, rows)]
    return [*tables, _of_multiples(record[MULTIPLES])] if MULTIPLES in record else tables


def _of_multiples(found: Mapping[str, Any]) -> Table:
    rows = [
        (
            multiple,
            f"{row['macs'] / 1e6:,.0f}",
            f"{row['error']:.4f}",
            f"{row['float, ms']:.1f}",
            f"{row['INT8, ms']:.1f}",
        )
        for multiple, row in found["rows"].items()
    ]
    title = (
        f"{found['title']}, by spatial decomposition, {found['ratio']:g} times fewer weights in every layer, "
        f"ranks in multiples, as truncated; error of the output on {found['num_test']} images; CPU ms in ONNX "
        "Runtime, batch 1"
    )
    return Table(title, ["multiple", "MMACs", "error", "float, ms", "INT8, ms"], rows)


def _rows(found: Mapping[str, Any], places: Sequence[str]) -> list[Sequence[str]]:
    head = f"{found['title']}, {found['num_test']:,} images"
    rows: list[Sequence[str]] = []
    for row in found["rows"]:
        rows.append(
            (
                f"{head}: {row['name']}",
                f"{row['macs'] / 1e6:,.0f}",
                f"{row['bytes'] / 1e6:.2f}",
                _estimate(row["value"], is_error=found["is_error"], sign=""),
                ""
                if row["name"].endswith("float")
                else _estimate(row["change"], is_error=found["is_error"], sign="+"),
                *(f"{row['milliseconds'][place]:.2f}" for place in places),
            )
        )
    return rows


def _estimate(estimate: Sequence[float] | None, *, is_error: bool, sign: str) -> str:
    if estimate is None:
        return ""
    kind, scale = (f"{sign}.4f", 1) if is_error else (f"{sign}.2f", 100)
    value, low, high = (format(scale * part, kind) for part in estimate)
    return f"{value} ({low} to {high})"


if __name__ == "__main__":
    sys.exit(render_or_check(sys.argv[1:], FOLDER, FOLDER / "README.md", summarize))
