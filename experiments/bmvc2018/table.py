"""Render the figures of ``run.py``, without computing any of them again.

python -m experiments.bmvc2018.table            writes results.md from results.json
python -m experiments.bmvc2018.table --check    fails unless results.md and the folder's README
                                                say what results.json says
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from decompose.methods import get_method
from decompose.utils.tables import Table
from experiments.bmvc2018.config import (
    DROP,
    MASK,
    MOST_PART,
    NAMES,
    NUM_TERMS,
    RECIPES,
    REPORTED_DENSE_GMACS,
    REPORTED_GMACS,
    REPORTED_MASKED_GMACS,
    REPORTED_TOP1_DROP,
)
from experiments.common.records import render_or_check

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"

_TITLES = {
    "a": "Single methods at a drop of {drop:.1f} point, no training",
    "b": "Combinations at a drop of {drop:.1f} point, no training",
}


def tables(record: Mapping[str, Any]) -> list[Table]:
    """The tables that there are figures for.

    Args:
        record: what ``run.py`` wrote to results.json.
    """
    made = [at_drop(record, part) for part in ("a", "b") if part in record]
    if "c" in record:
        made.append(orders(record))
    if "d" in record:
        made += [energy(record, method) for method in record["d"]]
    if "e" in record:
        made.append(fine_tuned(record))
    return [*made, analytic(record)]


def at_drop(record: Mapping[str, Any], part: str) -> Table:
    """(a) and (b): what is left of the MACs where as much is lost as is allowed."""
    setting = record["setting"]
    data, kept = setting["data"], setting["criterion"]
    original = record["original"]
    columns = [
        "",
        "GMACs, ImageNet\n(reported)",
        "top-1 drop, ImageNet\n(reported)",
        f"GMACs,\n{data}",
        f"{_words(kept)} drop, {data},\nsearched on {setting['num_subset']:,}",
        f"{_words(kept)} drop, {data},\nconfirmed on {setting['num_confirmed']:,}",
    ]
    if kept == "top5":
        columns.append(f"top-1 drop, {data},\nconfirmed")
    if part == "b":
        columns.append("energy kept\nby ND")
    rows: list[tuple[str, ...]] = [
        ("original", f"{REPORTED_DENSE_GMACS:.2f}", "", _giga(original["macs"]))
    ]
    for recipe in RECIPES[part]:
        reported = REPORTED_TOP1_DROP.get(recipe)
        cells = [
            _name(recipe),
            f"{REPORTED_GMACS[recipe]:.2f}",
            "" if reported is None else f"{reported:.2f}",
        ]
        if (found := record[part].get(recipe)) is None:
            word = "loses more at any strength" if recipe in record[part] else "not measured yet"
            rows.append((*cells, word))
            continue
        cells += [_giga(found["macs"]) + _end_of_range(found, setting), _points(found["drop"])]
        for criterion in dict.fromkeys((kept, "top1")):
            before = original["confirmation"][criterion]
            cells.append(_points(before - found["confirmation"][criterion]))
        if part == "b":
            cells.append("" if found["energy"] is None else f"{found['energy']:.0%}")
        rows.append(tuple(cells))
    return Table(
        f"({part}) {_TITLES[part].format(drop=100 * DROP)}. Reported: ImageNet, top-5 drop. "
        f"Here: {_here(setting)}, {_words(kept)} drop",
        columns,
        _filled(rows, len(columns)),
    )


def orders(record: Mapping[str, Any]) -> Table:
    """(c) Accuracy against MACs for both orders."""
    setting = record["setting"]
    kept = setting["criterion"]
    columns = ["terms"]
    for method in record["c"]:
        order = get_method(method).title.split(", ")[1]
        columns += [f"GMACs,\n{order}", f"{_words(kept)}, {setting['data']},\n{order}"]
    rows = []
    for index, terms in enumerate(NUM_TERMS):
        points = [record["c"][method][index] for method in record["c"]]
        cells = [(_giga(p["macs"]), f"{100 * p['subset'][kept]:.1f}") for p in points]
        rows.append((f"T={terms}", *(cell for pair in cells for cell in pair)))
    before = record["original"]
    dense = (_giga(before["macs"]), f"{100 * before['subset'][kept]:.1f}")
    rows.append(("original", *dense * len(record["c"])))
    return Table(
        f"(c) Both orders of network decoupling, {', '.join(MASK)} dense. {_here(setting)}, "
        f"{_words(kept)} accuracy in % on {setting['num_subset']:,} images",
        columns,
        rows,
    )


def energy(record: Mapping[str, Any], method: str) -> Table:
    """(d) The energy of each layer's first terms."""
    return Table(
        f"(d) Energy in % that the first terms of each layer hold, {get_method(method).title}. "
        "VGG16's ImageNet weights, no data",
        ["layer", *(f"T={terms}" for terms in NUM_TERMS)],
        [
            (name, *_filled([[f"{100 * share:.1f}" for share in held]], len(NUM_TERMS))[0])
            for name, held in record["d"][method].items()
        ],
    )


def fine_tuned(record: Mapping[str, Any]) -> Table:
    """(e) Network decoupling before and after finetuning; the paper reports none of VGG16's."""
    setting = record["setting"]
    kept, recipe = setting["criterion"], setting["recipe"]
    before = record["original"]["confirmation"][kept]
    rows = [
        (
            name,
            _giga(found["macs"]),
            _points(before - found["before"][kept]),
            "" if found["after"] is None else _points(before - found["after"][kept]),
        )
        for name, found in record["e"].items()
    ]
    images = f"{setting['num_tuned']:,} images" if setting["num_tuned"] else "all images"
    return Table(
        f"(e) Network decoupling, training-free and finetuned for {recipe['epochs']} epoch(s) of "
        f"{images}. {_here(setting)}, {_words(kept)} drop on {setting['num_confirmed']:,}",
        ["", "GMACs", "drop,\ntraining-free", "drop,\nfinetuned"],
        rows,
    )


def analytic(record: Mapping[str, Any]) -> Table:
    """VGG16's MACs with each number of terms, from shapes alone."""
    counted = record["masked_macs"]
    rows = [
        (
            f"T={terms}",
            f"{REPORTED_MASKED_GMACS[terms]:.2f}" if terms in REPORTED_MASKED_GMACS else "",
            *(_giga(counted[method][index]) for method in counted),
        )
        for index, terms in enumerate(NUM_TERMS)
    ]
    dense = _giga(record["original"]["macs"])
    rows.append(("original", f"{REPORTED_DENSE_GMACS:.2f}", *[dense] * len(counted)))
    titles = [get_method(method).title.split(", ")[1] for method in counted]
    return Table(
        "GMACs of VGG16 at 224×224 with its fully connected layers, counted from shapes; "
        f"{', '.join(MASK)} dense",
        ["terms", "PW+DW\n(reported)", *titles],
        rows,
    )


def _end_of_range(found: Mapping[str, Any], setting: Mapping[str, Any]) -> str:
    """A word where nothing stronger was tried, so that less than is allowed may be lost."""
    together = "part" in found
    searched = found["part"] / MOST_PART if together else found["strength"]
    num_steps = setting["num_steps"] - together
    return " (strongest tried)" if searched >= 1 - 2.0**-num_steps else ""


def _here(setting: Mapping[str, Any]) -> str:
    if setting["data"] == "ImageNet":
        return "ImageNet"
    size = setting["size"]
    return f"{setting['data']} at {size}×{size} with a linear classifier of VGG16's features"


def _name(recipe: str) -> str:
    return NAMES.get(recipe, recipe)


def _words(criterion: str) -> str:
    return criterion.replace("top", "top-")


def _giga(macs: float) -> str:
    return f"{macs / 1e9:.2f}"


def _points(share: float) -> str:
    return f"{100 * share:.2f}"


def _filled(rows: Iterable[Iterable[str]], width: int) -> list[tuple[str, ...]]:
    return [(*row, *[""] * (width - len(row))) for row in map(tuple, rows)]


if __name__ == "__main__":
    sys.exit(render_or_check(sys.argv[1:], FOLDER, README, tables))
