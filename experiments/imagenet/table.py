"""Render the figures of ``run.py``, without computing any of them again.

python -m experiments.imagenet.table            writes results.md from results.json
python -m experiments.imagenet.table --check    fails unless results.md and the folder's README
                                                say what results.json says
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decompose.utils.tables import Table
from experiments.common.records import render_or_check
from experiments.imagenet.published import PUBLISHED
from experiments.imagenet.study import WAYS

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"

TITLES: Mapping[str, str] = {
    "squeezenet1_1": "SqueezeNet 1.1",
    "efficientnet_lite0": "EfficientNet-lite0",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "vgg16": "VGG16",
    "mobilenet_v2": "MobileNet v2",
}
FULL = 50_000 - 64
"""Images of ImageNet's validation set that accuracy is measured on."""


def tables(record: Mapping[str, Any]) -> list[Table]:
    """Points of accuracy that each way loses, the published figures, and seconds.

    Args:
        record: what ``run.py`` wrote to results.json.
    """
    return [changes(record), published(), seconds(record)]


def changes(record: Mapping[str, Any]) -> Table:
    """Points of top-1 against the original, at every share of the MACs."""
    networks = record["networks"]
    shares = _shares(record)
    rows = [
        (_title(name, found), WAYS[way], *(_change(points.get(share)) for share in shares))
        for name, found in networks.items()
        for way, points in found["ways"].items()
    ]
    numbers = sorted({found["original"]["num_test"] for found in networks.values()})
    of_what = f"{' or '.join(f'{n:,}' for n in numbers)} images"
    if numbers != [FULL]:
        of_what += ", one of each class, which are probably training images: accuracies flatter"
    return Table(
        "ImageNet, points of top-1 against the original at shares of its MACs, in brackets the 95 % "
        f"interval of the paired difference; {of_what}",
        ["original", "", *(f"{float(share):.0%} of the MACs" for share in shares)],
        rows,
    )


def published() -> Table:
    """What others report on the 50,000 validation images."""
    rows = [
        (
            p.network,
            p.method,
            f"{p.macs:.0%}",
            f"{p.change:+.2f}",
            "yes" if p.is_finetuned else "no",
            p.source,
        )
        for p in PUBLISHED
    ]
    columns = ["original", "method", "MACs", "change", "finetuned", "source"]
    return Table("Published figures on ImageNet's 50,000 validation images", columns, rows)


def seconds(record: Mapping[str, Any]) -> Table:
    """Seconds from the trained network to the smaller one."""
    shares = _shares(record)
    rows = [
        (
            _title(name, found),
            WAYS[way],
            *(f"{points[share]['seconds']:.0f}" if share in points else "" for share in shares),
        )
        for name, found in record["networks"].items()
        for way, points in found["ways"].items()
    ]
    return Table(
        "Seconds to plan, rewrite and repair; one thread, the machine had other work",
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
    return f"{TITLES[name]}, {100 * found['original']['accuracy']['value']:.1f} %"


def _change(point: Mapping[str, Any] | None) -> str:
    if point is None:
        return ""
    value, low, high = (f"{100 * point['change'][key]:+.1f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


if __name__ == "__main__":
    sys.exit(render_or_check(sys.argv[1:], FOLDER, README, tables))
