"""Render the figures of ``run.py``, without computing any of them again.

python -m experiments.speed.table            writes results.md from results.json
python -m experiments.speed.table --check    fails unless results.md and the README say what
                                             results.json says
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decompose.inference.benchmark import Benchmark
from decompose.utils.tables import Table, format_threads
from experiments.common.records import render_or_check

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"


def summarize(record: Mapping[str, Any]) -> list[Table]:
    """What uniform decoupling keeps of its promise, what budgets of time buy, and all times."""
    uniform = Benchmark.from_dict(record["uniform"])
    return [promise(uniform), budgets(record), uniform.table()]


def promise(uniform: Benchmark) -> Table:
    """A row a network, a column an engine and batch size: speed-up and efficiency."""
    cells: dict[str, list[str]] = {}
    columns: list[str] = []
    for ratio in uniform.ratios():
        latency = ratio.latency
        column = f"{latency.engine}, batch {latency.batch_size}"
        if column not in columns:
            columns.append(column)
        row = cells.setdefault(latency.name, [f"{ratio.macs:.2f}×"])
        row.append(f"{ratio.speed_up:.2f}× ({ratio.efficiency:.2f})")
    original = uniform.latencies[0].name
    rows = [(name, *row) for name, row in cells.items() if name != original]
    return Table(
        f"VGG16 faster than dense, and the share of the MACs' promise that is; {uniform.machine}, "
        f"{format_threads(uniform.num_threads)}",
        ["", "fewer MACs", *columns],
        rows,
    )


def budgets(record: Mapping[str, Any]) -> Table:
    """A row a budget of time."""
    rows = []
    for paced in record["paced"]:
        timed = Benchmark.from_dict(paced["timed"])
        _, ratio = timed.ratios()
        rows.append(
            (
                f"{paced['share']:.2f}",
                str(paced["batch_size"]),
                f"{1 / paced['predicted']:.2f}×",
                f"{ratio.speed_up:.2f}×",
                f"{ratio.macs:.2f}×",
                f"{paced['error']:.3f}",
            )
        )
    (engine,) = Benchmark.from_dict(record["paced"][0]["timed"]).versions.items()
    return Table(
        f"Mixtures for a share of the time in {' '.join(engine)}, repaired on "
        f"{record['num_calibrated']} photographs; error of pool5 on {record['num_test']} others",
        ["share", "batch", "predicted faster", "measured faster", "fewer MACs", "error"],
        rows,
    )


if __name__ == "__main__":
    sys.exit(render_or_check(sys.argv[1:], FOLDER, README, summarize))
