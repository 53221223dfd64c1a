"""Render the figures of ``run.py``, without computing any of them again.

python -m experiments.questions.only_images.table            writes results.md from results.json
python -m experiments.questions.only_images.table --check    fails unless results.md and the README
                                                             say what results.json says
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decompose.methods import METHODS
from decompose.utils.tables import Table
from experiments.common.records import format_spread, render_or_check

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"


def summarize(record: Mapping[str, Any]) -> list[Table]:
    """Accuracy before and after, a row a rank: PW+DW of both networks, then both orders of each."""
    tasks = record["tasks"]
    headings = [f"{task['title']}, {part}" for task in tasks for part in ("MACs", "accuracy in %")]
    rows = [("original", *(cell for task in tasks for cell in ("", percent(task["accuracies"]))))]
    for index, rank in enumerate(record["ranks"]):
        points = [task["curves"]["pw_dw"][index] for task in tasks]
        cells = [
            cell
            for task, point in zip(tasks, points, strict=True)
            for cell in (f"{task['macs'] / point['macs']:.2f}× fewer", percent(point["repaired"]))
        ]
        rows.append((terms(rank), *cells))
    first = Table(
        f"PW+DW without training, repaired on {record['num_calibrate']} unlabelled inputs; "
        f"{len(record['seeds'])} seeds, mean ± standard deviation",
        ["terms a layer", *headings],
        rows,
    )
    return [first, *(_task_table(record["ranks"], task) for task in tasks)]


def _task_table(ranks: Sequence[int], task: Mapping[str, Any]) -> Table:
    columns = [""]
    for method in task["curves"]:
        order = METHODS[method].title.rpartition(" ")[2]
        columns += [f"{order}, MACs", "as truncated", "repaired"]
    rows = []
    for index, rank in enumerate(ranks):
        points = [curve[index] for curve in task["curves"].values()]
        cells = [
            cell
            for point in points
            for cell in (
                f"{task['macs'] / point['macs']:.2f}× fewer",
                percent(point["truncated"]),
                percent(point["repaired"]),
            )
        ]
        rows.append((terms(rank), *cells))
    return Table(
        f"{task['title']}: accuracy in %, before {percent(task['accuracies'])}; "
        f"{task['taps']} taps, {task['num_classes']} classes, {task['macs'] / 1e6:.1f} MMACs, "
        f"{task['params'] / 1e3:.1f} k parameters",
        columns,
        rows,
    )


def percent(shares: Sequence[float]) -> str:
    """Mean and standard deviation over the seeds, in %."""
    return format_spread([100 * share for share in shares])


def terms(rank: int) -> str:
    """A rank in words."""
    return "1 term" if rank == 1 else f"{rank} terms"


if __name__ == "__main__":
    sys.exit(render_or_check(sys.argv[1:], FOLDER, README, summarize))
