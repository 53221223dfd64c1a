"""The figures of (c) and (d)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decompose.evaluation.inspection import Inspection, LayerInspection
from decompose.evaluation.plots import plot_spectra
from experiments.bmvc2018.config import MASK, NUM_TERMS
from experiments.common.plots import Point as PlottedPoint
from experiments.common.plots import plot_accuracy_against_macs


def draw(record: Mapping[str, Any], folder: Path) -> None:
    """Draw what there are figures for.

    Args:
        record: what ``run.py`` wrote.
        folder: where the images go.
    """
    if "c" in record:
        draw_orders(record, folder / "accuracy_against_macs.png")
    if "d" in record:
        draw_energies(record, folder / "energy.png")


def draw_orders(record: Mapping[str, Any], path: Path) -> None:
    """Accuracy against MACs, a line an order."""
    setting, before = record["setting"], record["original"]
    kept = setting["criterion"]
    curves = {
        method: [
            PlottedPoint(terms, point["macs"], point["subset"][kept])
            for terms, point in zip(NUM_TERMS, points, strict=True)
        ]
        for method, points in record["c"].items()
    }
    plot_accuracy_against_macs(
        curves,
        PlottedPoint(None, before["macs"], before["subset"][kept]),
        path,
        title=f"VGG16 decoupled, {', '.join(MASK)} dense",
        label=f"{kept.replace('top', 'top-')} accuracy, {setting['data']}",
    )


def draw_energies(record: Mapping[str, Any], path: Path) -> None:
    """The energy of every layer's first terms, a panel an order."""
    names = list(next(iter(record["d"].values())))
    layers = [
        LayerInspection(
            name,
            "",
            "",
            "",
            0,
            0,
            {method: tuple(held[name]) for method, held in record["d"].items()},
        )
        for name in names
    ]
    plot_spectra(Inspection(tuple(layers), 0, 0), path)
