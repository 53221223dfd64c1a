"""Render the figures of ``run.py``, without computing any of them again.

python -m experiments.budget.table            writes results.md from results.json
python -m experiments.budget.table --check    fails unless results.md and the README say what
                                              results.json says
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decompose.utils.tables import Table, format_threads
from experiments.common.records import render_or_check

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"

LABELS = {
    "pw_dw": "network decoupling, PW+DW, uniform",
    "dw_pw": "network decoupling, DW+PW, uniform",
    "spatial": "spatial decomposition, uniform",
    "channel": "channel decomposition, uniform",
    "tucker": "Tucker-2, uniform",
    "tensorly-torch": "tensorly-torch's Tucker, same ranks",
    "mixture, data-free": "mixture, data-free, as truncated",
    "mixture, data-free, repaired": "mixture, data-free, repaired on synthetic images",
    "mixture, calibrated": "mixture, planned and repaired on photographs",
}


def summarize(record: Mapping[str, Any]) -> list[Table]:
    """Errors at every budget, the objectives' rank correlations, and the time it took."""
    fewer = [f"about {times:g}× fewer MACs" for times in record["fewer"]]
    rows = []
    for name, label in LABELS.items():
        points = record["points"][name]
        times = [record["original_macs"] / point["macs"] for point in points]
        cells = [f"{p['error']:.3f} ({t:.2f}×)" for p, t in zip(points, times, strict=True)]
        rows.append((label, *cells, *[""] * (len(fewer) - len(cells))))
    correlations = record["objective"]["spearman"].items()
    measured = len(record["objective"]["measured"])
    return [
        Table(
            f"Relative error of VGG16's pool5 on {record['num_test']} photographs; "
            f"{record['num_calibrated']} others to calibrate on",
            ["", *fewer],
            rows,
        ),
        Table(
            f"Rank correlation of predicted and measured error over {measured} random plans",
            ["objective", "Spearman's rho"],
            [(name, f"{rho:.3f}") for name, rho in correlations],
        ),
        Table(
            f"Seconds, {format_threads(record['threads'])}",
            ["", "s"],
            [(name, f"{seconds:.0f}") for name, seconds in record["seconds"].items()],
        ),
    ]


if __name__ == "__main__":
    sys.exit(render_or_check(sys.argv[1:], FOLDER, README, summarize))
