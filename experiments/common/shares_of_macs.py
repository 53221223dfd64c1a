"""Networks made smaller several ways, at several shares of their MACs: their records and tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from decompose.utils.tables import Table

Point = Mapping[str, Any]
"""What was measured of one network, made smaller one way to one share."""


def measured(folder: Path, ways: Iterable[str]) -> dict[str, Any]:
    """What was measured of one network, by way and share.

    Args:
        folder: of ``original.json`` and a ``WAY_SHARE.json`` for each point.
        ways: in the order of the tables.
    """
    by_way: dict[str, dict[str, Any]] = {}
    for name in ways:
        found = {path.stem.rpartition("_")[2]: path for path in folder.glob(f"{name}_*.json")}
        if found:
            ordered = sorted(found, key=float, reverse=True)
            by_way[name] = {share: _read(found[share]) for share in ordered}
    return {"original": _read(folder / "original.json"), "ways": by_way}


def table_by_share(
    title: str,
    networks: Mapping[str, Mapping[str, Any]],
    originals: Mapping[str, str],
    ways: Mapping[str, str],
    cell: Callable[[Point], str],
) -> Table:
    """A table with a row for each network and way, and a column for each share.

    Args:
        title: of the table.
        networks: by name, as ``measured`` gives them.
        originals: titles of the networks.
        ways: titles of the ways.
        cell: makes the text of a point.
    """
    found = {
        share
        for network in networks.values()
        for each in network["ways"].values()
        for share in each
    }
    shares = sorted(found, key=float, reverse=True)
    rows = [
        (
            originals[name],
            ways[way],
            *(cell(points[share]) if share in points else "" for share in shares),
        )
        for name, network in networks.items()
        for way, points in network["ways"].items()
    ]
    return Table(
        title, ["original", "", *(f"{float(share):.0%} of the MACs" for share in shares)], rows
    )


def numbers_tested(networks: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """The numbers of images that accuracy was measured on."""
    return sorted({network["original"]["num_test"] for network in networks.values()})


def change(point: Point, digits: int) -> str:
    """The change of accuracy in points, with its interval."""
    value, low, high = (f"{100 * point['change'][k]:+.{digits}f}" for k in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def seconds(point: Point) -> str:
    """The seconds that it took to make the smaller network."""
    return f"{point['seconds']:.0f}"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
