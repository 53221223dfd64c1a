"""Render the figures of ``run.py``, without computing any of them again.

python experiments/budget/table.py            writes results.md from results.json
python experiments/budget/table.py --check    fails unless results.md and the README say what
                                              results.json says
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decompose.files import write_text
from decompose.tables import Table

FOLDER = Path(__file__).parent
README = FOLDER.parents[1] / "README.md"

LABELS = {
    "pw_dw": "network decoupling, PW+DW, uniform",
    "dw_pw": "network decoupling, DW+PW, uniform",
    "spatial": "spatial decomposition, uniform",
    "channel": "channel decomposition, uniform",
    "tucker": "Tucker-2, uniform",
    "tensorly-torch": "tensorly-torch's Tucker, same ranks",
    "mixture, data-free": "mixture, data-free, as truncated",
    "mixture, data-free, repaired": "mixture, data-free, repaired on synthetic pictures",
    "mixture, calibrated": "mixture, planned and repaired on photographs",
}


def render(record: Mapping[str, Any]) -> str:
    """The results as Markdown.

    Args:
        record: what ``run.py`` wrote to results.json.
    """
    return "\n".join(table.to_markdown() for table in summarize(record))


def summarize(record: Mapping[str, Any]) -> list[Table]:
    """Errors at every budget, the objectives' rank correlations, and the time it took."""
    fewer = [f"about {times:g}× fewer MACs" for times in record["fewer"]]
    rows = []
    for name, label in LABELS.items():
        points = record["points"].get(name, [])
        if not points:
            continue
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
            f"Seconds, {record['threads']} threads",
            ["", "s"],
            [(name, f"{seconds:.0f}") for name, seconds in record["seconds"].items()],
        ),
    ]


def main(arguments: list[str]) -> int:
    """Write the table, or check that it still follows from the figures."""
    record = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    results = FOLDER / "results.md"
    if arguments != ["--check"]:
        write_text(results, render(record))
        return 0
    stale = []
    if results.read_text(encoding="utf-8") != render(record):
        stale.append(results)
    if summarize(record)[0].to_markdown() not in README.read_text(encoding="utf-8"):
        stale.append(README)
    for path in stale:
        print(f"{path}: its table does not follow from {FOLDER / 'results.json'}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
