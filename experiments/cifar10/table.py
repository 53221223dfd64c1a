"""Render the figures of ``run.py``, without computing any of them again.

python -m experiments.cifar10.table            writes results.md from results.json
python -m experiments.cifar10.table --check    fails unless results.md and the folder's README
                                               say what results.json says
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decompose.utils.tables import Table
from experiments.cifar10.published import NETWORK, PUBLISHED
from experiments.cifar10.ways import WAYS
from experiments.common.records import render_or_check

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"


def tables(record: Mapping[str, Any]) -> list[Table]:
    """What each way loses, the published figures, and the seconds it took.

    Args:
        record: what ``run.py`` wrote to results.json.
    """
    return [changes(record), published(), seconds(record)]


def changes(record: Mapping[str, Any]) -> Table:
    """Points of accuracy against the original, at every share of the MACs."""
    networks = record["networks"]
    shares = _shares(record)
    rows = [
        (_title(name, found), WAYS[way].title, *(_change(points.get(share)) for share in shares))
        for name, found in networks.items()
        for way, points in found["ways"].items()
    ]
    numbers = sorted({found["original"]["num_test"] for found in networks.values()})
    return Table(
        "CIFAR-10, points of top-1 against the original at shares of its MACs, in brackets the 95 % "
        f"interval of the paired difference; {' or '.join(f'{n:,}' for n in numbers)} test images",
        ["original", "", *(f"{float(share):.0%} of the MACs" for share in shares)],
        rows,
    )


def published() -> Table:
    """What others report of ResNet-56, all of it finetuned."""
    rows = [
        (
            p.method,
            f"{p.macs:.0%}",
            f"{p.before:.2f}",
            f"{p.after:.2f}",
            f"{p.after - p.before:+.2f}",
            p.source,
        )
        for p in PUBLISHED
    ]
    return Table(
        f"Published figures of {NETWORK.replace('resnet', 'ResNet-')} on CIFAR-10, finetuned",
        ["method", "MACs", "before", "after", "change", "source"],
        rows,
    )


def seconds(record: Mapping[str, Any]) -> Table:
    """Seconds from the trained network to the smaller one, without statistics and finetuning."""
    shares = _shares(record)
    rows = [
        (_title(name, found), WAYS[way].title, *(_seconds(points.get(share)) for share in shares))
        for name, found in record["networks"].items()
        for way, points in found["ways"].items()
    ]
    return Table(
        "Seconds to plan, rewrite and repair; the machine had other work",
        ["original", "", *(f"{float(share):.0%} of the MACs" for share in shares)],
        rows,
    )


def _shares(record: Mapping[str, Any]) -> list[str]:
    found = {
        share
        for network in record["networks"].values()
        for points in network["ways"].values()
        for share in points
    }
    return sorted(found, key=float, reverse=True)


def _title(name: str, found: Mapping[str, Any]) -> str:
    accuracy = found["original"]["accuracy"]["value"]
    return f"{name.replace('resnet', 'ResNet-')}, {100 * accuracy:.2f} %"


def _change(point: Mapping[str, Any] | None) -> str:
    if point is None:
        return ""
    value, low, high = (f"{100 * point['change'][key]:+.2f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _seconds(point: Mapping[str, Any] | None) -> str:
    return "" if point is None else f"{point['seconds']:.0f}"


if __name__ == "__main__":
    sys.exit(render_or_check(sys.argv[1:], FOLDER, README, tables))
