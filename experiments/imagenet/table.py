"""Render the figures of ``run.py``, without computing any of them again.

python -m experiments.imagenet.table            writes results.md from results.json
python -m experiments.imagenet.table --check    fails unless results.md and the folder's README
                                                say what results.json says
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from decompose.utils.tables import Table
from experiments.common.records import render_or_check
from experiments.common.shares_of_macs import change, numbers_tested, seconds, table_by_share
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
    return [changes(record), published(), times(record)]


def changes(record: Mapping[str, Any]) -> Table:
    """Points of top-1 against the original, at every share of the MACs."""
    networks = record["networks"]
    numbers = numbers_tested(networks)
    of_what = f"{' or '.join(f'{number:,}' for number in numbers)} images"
    if numbers != [FULL]:
        of_what += ", one of each class, which are probably training images: accuracies flatter"
    return table_by_share(
        "ImageNet, points of top-1 against the original at shares of its MACs, in brackets the 95 % "
        f"interval of the paired difference; {of_what}",
        networks,
        _originals(networks),
        WAYS,
        partial(change, digits=1),
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


def times(record: Mapping[str, Any]) -> Table:
    """Seconds from the trained network to the smaller one."""
    networks = record["networks"]
    title = "Seconds to plan, rewrite and repair; one thread, the machine had other work"
    return table_by_share(title, networks, _originals(networks), WAYS, seconds)


def _originals(networks: Mapping[str, Any]) -> dict[str, str]:
    accuracies = {n: 100 * found["original"]["accuracy"]["value"] for n, found in networks.items()}
    return {name: f"{TITLES[name]}, {accuracy:.1f} %" for name, accuracy in accuracies.items()}


if __name__ == "__main__":
    sys.exit(render_or_check(sys.argv[1:], FOLDER, README, tables))
