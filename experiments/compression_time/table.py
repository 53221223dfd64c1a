"""Render the figures of ``run.py``, without computing any of them again.

python -m experiments.compression_time.table            writes results.md from results.json
python -m experiments.compression_time.table --check    fails unless results.md and the README say what
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
README = FOLDER / "README.md"

ORDER = (
    "vgg16-0",
    "vgg16-16",
    "vgg16-64",
    "vgg16-512",
    *(f"resnet20-{num}" for num in (16, 64, 256, 1024)),
    *(f"resnet{depth}-64" for depth in (32, 44, 56, 110)),
    "resnet50-16",
    "alexnet-0",
    "ssd300-0",
)
"""Cases, by model and number of images."""


def summarize(record: Mapping[str, Any]) -> list[Table]:
    """A row a case: the cost in forward passes, for each layer, and the memory."""
    rows = []
    for name in ORDER:
        if name not in record:
            continue
        case = record[name]
        total = case["plan_passes"] + case["repair_passes"]
        rows.append(
            (
                case["title"],
                str(case["num_images"] or "none"),
                f"{case['pass_ms']:.1f} ms",
                f"{case['plan_passes']:,.0f} + {case['repair_passes']:,.0f}",
                f"{total * case['pass_ms'] / 1e3:.0f} s",
                f"{total * case['pass_ms'] / 1e3 / case['num_layers']:.2f} s",
                f"{case['peak_bytes'] / 1e9:.1f} GB",
            )
        )
    share = record["setting"]["macs"]
    return [
        Table(
            f"Time to compress to {share:.0%} of the MACs, on synthetic images; CPU time of one thread",
            ["model", "images", "a pass", "plan + repair, passes", "in all", "a layer", "memory"],
            rows,
        )
    ]


if __name__ == "__main__":
    sys.exit(render_or_check(sys.argv[1:], FOLDER, README, summarize))
