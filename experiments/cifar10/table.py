"""Render the figures of ``run.py``, without computing any of them again.

python -m experiments.cifar10.table            writes results.md from results.json
python -m experiments.cifar10.table --check    fails unless results.md and the folder's README
                                               say what results.json says
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from decompose.utils.tables import Table
from experiments.cifar10.published import NETWORK, PUBLISHED
from experiments.cifar10.ways import WAYS
from experiments.common.records import render_or_check
from experiments.common.shares_of_macs import change, numbers_tested, seconds, table_by_share

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
_TITLES = {name: way.title for name, way in WAYS.items()}


def tables(record: Mapping[str, Any]) -> list[Table]:
    """What each way loses, the published figures, and the seconds it took.

    Args:
        record: what ``run.py`` wrote to results.json.
    """
    return [changes(record), published(), times(record)]


def changes(record: Mapping[str, Any]) -> Table:
    """Points of accuracy against the original, at every share of the MACs."""
    networks = record["networks"]
    numbers = " or ".join(f"{number:,}" for number in numbers_tested(networks))
    return table_by_share(
        "CIFAR-10, points of top-1 against the original at shares of its MACs, in brackets the 95 % "
        f"interval of the paired difference; {numbers} test images",
        networks,
        _originals(networks),
        _TITLES,
        partial(change, digits=2),
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


def times(record: Mapping[str, Any]) -> Table:
    """Seconds from the trained network to the smaller one, without statistics and finetuning."""
    networks = record["networks"]
    title = "Seconds to plan, rewrite and repair; the machine had other work"
    return table_by_share(title, networks, _originals(networks), _TITLES, seconds)


def _originals(networks: Mapping[str, Any]) -> dict[str, str]:
    accuracies = {n: 100 * found["original"]["accuracy"]["value"] for n, found in networks.items()}
    return {
        name: f"{name.replace('resnet', 'ResNet-')}, {accuracy:.2f} %"
        for name, accuracy in accuracies.items()
    }


if __name__ == "__main__":
    sys.exit(render_or_check(sys.argv[1:], FOLDER, README, tables))
