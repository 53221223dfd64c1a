"""Render the counts of ``tests.endurance.run``, without trying anything again.

python -m experiments.endurance.table            writes results.md from results.json
python -m experiments.endurance.table --check    fails unless results.md and the README say what
                                                 results.json says
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decompose.utils.tables import Table
from experiments.common.records import render_or_check

FOLDER = Path(__file__).parent


def tables(record: Mapping[str, Any]) -> list[Table]:
    """A row a kind of file and a command, and the sums."""
    columns = ("tried", "read", "refused", "lost", "seconds")
    rows = [
        (count["name"], *(f"{count[column]:,.0f}" for column in columns))
        for count in record["counts"]
    ]
    sums = [sum(count[column] for count in record["counts"]) for column in columns]
    return [
        Table(
            f"Damaged files and killed commands; {sums[-1] / 60:.0f} minutes of CPU time",
            ["", "tried", "read, or survived", "refused in one line", "lost", "CPU s"],
            rows,
            ("together", *(f"{value:,.0f}" for value in sums)),
        )
    ]


if __name__ == "__main__":
    sys.exit(render_or_check(sys.argv[1:], FOLDER, FOLDER / "README.md", tables))
