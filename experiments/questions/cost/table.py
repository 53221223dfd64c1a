"""Render the figures of ``run.py``, without computing any of them again.

python -m experiments.questions.cost.table            writes results.md from results.json
python -m experiments.questions.cost.table --check    fails unless results.md and the README say
                                                      what results.json says
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decompose.inference.benchmark import Benchmark
from decompose.utils.tables import Table
from experiments.common.records import format_spread, render_or_check

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"


def summarize(record: Mapping[str, Any]) -> list[Table]:
    """Networks trained from scratch, and the regular one decomposed."""
    networks = record["networks"]
    regular, *_ = networks.values()
    speeds = speed_ups(record)
    rows = [
        (
            name,
            f"{network['width']}, {network['depth']}",
            f"{network['params'] / 1e3:.1f}",
            f"{network['macs'] / 1e6:.2f}",
            f"{1 / speeds[name]:.2f}×",
            percent(network["accuracies"]),
            "" if network is regular else differences(network["accuracies"], regular["accuracies"]),
        )
        for name, network in networks.items()
    ]
    decomposed = [
        (
            name,
            f"{network['params'] / 1e3:.1f}",
            f"{network['macs'] / 1e6:.2f}",
            *([f"{1 / speeds[name]:.2f}×"] if name in speeds else [""]),
            *(
                differences(network[how], regular["accuracies"])
                for how in ("truncated", "repaired")
            ),
        )
        for name, network in record["decomposed"].items()
    ]
    return [
        Table(
            f"Fashion-MNIST, trained from scratch on {record['epochs']} × {record['num_train']:,} "
            f"images, {len(record['seeds'])} seeds: mean ± standard deviation",
            [
                "model",
                "width, depth",
                "k params",
                "MMACs",
                "time",
                "accuracy in %",
                "points against regular",
            ],
            rows,
        ),
        Table(
            "The regular network decomposed after its training: points against it",
            ["", "k params", "MMACs", "time", "as truncated", "repaired"],
            decomposed,
        ),
    ]


def speed_ups(record: Mapping[str, Any]) -> dict[str, float]:
    """How many times faster than the regular network each one is."""
    ratios = Benchmark.from_dict(record["latency"]).ratios()
    return {ratio.latency.name: ratio.speed_up for ratio in ratios}


def percent(shares: Sequence[float]) -> str:
    """Mean and standard deviation over the seeds, in %."""
    return format_spread([100 * share for share in shares])


def differences(shares: Sequence[float], regular: Sequence[float]) -> str:
    """Mean and standard deviation of the differences, seed by seed, in points."""
    points = [100 * (a - b) for a, b in zip(shares, regular, strict=True)]
    return format_spread(points, "+")


if __name__ == "__main__":
    sys.exit(render_or_check(sys.argv[1:], FOLDER, README, summarize))
