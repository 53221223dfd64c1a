"""Render the figures of ``run.py``, without computing any of them again.

python -m experiments.zoo.table            writes results.md from results.json
python -m experiments.zoo.table --check    fails unless results.md and the README say what
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

_MOST_NAMED = 3
_ENGINES = {"eager": "eager", "onnxruntime": "ONNX Runtime"}


def summarize(record: Mapping[str, Any]) -> list[Table]:
    """A row a network."""
    rows = [
        (
            name,
            "×".join(map(str, network["size"])),
            f"{network['macs'][0] / 1e9:.2f}",
            f"{network['macs'][0] / network['macs'][1]:.2f}×",
            f"{network['params'][0] / network['params'][1]:.2f}×",
            mixture(network["methods"]),
            f"{network['plan_seconds']:.0f}",
            *(speed_up(network["milliseconds"][engine]) for engine in _ENGINES),
        )
        for name, network in record["networks"].items()
    ]
    return [
        Table(
            "Networks with random weights, planned without data for half their MACs; times of one "
            f"input on {record['machine']}, {format_threads(record['threads'])}",
            [
                "model",
                "input",
                "GMACs",
                "fewer MACs",
                "fewer weights",
                "layers by method",
                "seconds to plan",
                *(f"{title}, faster" for title in _ENGINES.values()),
            ],
            rows,
        )
    ]


def mixture(methods: Mapping[str, int]) -> str:
    """The methods of the most layers, and how many layers stay dense."""
    chosen = [(name, count) for name, count in methods.items() if name != "dense"]
    named = [f"{count} {name}" for name, count in chosen[:_MOST_NAMED]]
    others = sum(count for _, count in chosen[_MOST_NAMED:])
    more = [f"{others} others"] if others else []
    return ", ".join([*named, *more, f"{methods.get('dense', 0)} dense"])


def speed_up(milliseconds: list[float] | str) -> str:
    """How many times faster; a dash where it was not to be measured."""
    if isinstance(milliseconds, str):
        return "–"
    before, after = milliseconds
    return f"{before / after:.2f}×"


if __name__ == "__main__":
    sys.exit(render_or_check(sys.argv[1:], FOLDER, README, summarize))
