"""The Pareto table and plot of a sweep, from the records of its points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decompose.evaluation.plots import MARKERS, new_figure, save_figure
from decompose.utils.tables import Table

COSTS: Mapping[str, str] = {"macs": "MACs", "params": "parameters", "time": "time"}
"""Titles of the costs of a model."""

Record = Mapping[str, Any]


def relative_costs(record: Record, original: Record) -> dict[str, float]:
    """A model's costs as shares of the original's.

    Args:
        record: of a point.
        original: of the original.
    """
    shares = {cost: record[cost] / original[cost] for cost in ("macs", "params")}
    return {**shares, "time": record["time"]}


def pareto_fronts(records: Sequence[Record], original: Record) -> dict[str, list[str]]:
    """The names of points that no other beats in score and in a cost, by cost.

    Args:
        records: of points that were made.
        original: of the original.

    >>> original = {"macs": 10, "params": 10, "is_error": True}
    >>> points = [("a", 5, 0.1), ("b", 6, 0.2), ("c", 6, 0.05)]
    >>> made = [
    ...     {"name": n, "macs": m, "params": m, "time": m / 10, "score": {"value": e}}
    ...     for n, m, e in points
    ... ]
    >>> pareto_fronts(made, original)["macs"]
    ['a', 'c']
    """
    sign = 1 if original["is_error"] else -1
    costs = {r["name"]: relative_costs(r, original) for r in records}
    losses = {r["name"]: sign * r["score"]["value"] for r in records}
    fronts = {}
    for cost in COSTS:
        pairs = {name: (costs[name][cost], losses[name]) for name in costs}
        fronts[cost] = [
            name
            for name, (price, loss) in pairs.items()
            if not any(
                p <= price and e <= loss and (p, e) != (price, loss) for p, e in pairs.values()
            )
        ]
    return fronts


def sweep_table(original: Record, records: Sequence[Record]) -> Table:
    """Make the table of a sweep, a row a point.

    Args:
        original: its record.
        records: of the points.
    """
    made = [record for record in records if "failed" not in record]
    fronts = pareto_fronts(made, original)
    rows = []
    for record in records:
        name = record["name"]
        if "failed" in record:
            rows.append((name, "", "", "", "", "no plan meets it"))
            continue
        shares = relative_costs(record, original).values()
        best = ", ".join(title for cost, title in COSTS.items() if name in fronts[cost])
        rows.append((name, _score(record, original), *(f"{part:.1%}" for part in shares), best))
    column = "error" if original["is_error"] else "accuracy, %\n(95 % interval of the change)"
    columns = ["budget", column, *COSTS.values(), "not beaten\nfor its"]
    of_original = "" if original["is_error"] else f"; the original {_percent(original)}"
    return Table(f"Sweep: {original['title']}{of_original}", columns, rows)


def plot_sweep(original: Record, records: Sequence[Record], path: str | Path) -> None:
    """Plot the score against each cost, a line a family of points.

    Args:
        original: its record.
        records: of the points.
        path: the image file; its suffix is the format.

    Raises:
        DecomposeError: matplotlib is not installed, or the file cannot be written.
    """
    made = [record for record in records if "failed" not in record]
    figure = new_figure(4.2 * len(COSTS), 3.8)
    panels = figure.subplots(1, len(COSTS), sharey=True)
    scale = 1 if original["is_error"] else 100
    for ax, (cost, title) in zip(panels, COSTS.items(), strict=True):
        for index, family in enumerate(dict.fromkeys(_line(record) for record in made)):
            line = sorted(
                (100 * relative_costs(record, original)[cost], scale * record["score"]["value"])
                for record in made
                if _line(record) == family
            )
            ax.plot(*zip(*line, strict=True), marker=MARKERS[index % len(MARKERS)], label=family)
        if not original["is_error"]:
            ax.axhline(scale * original["score"]["value"], color="grey", linestyle=":")
        ax.set_xlabel(f"{title}, % of the original's")
        ax.grid(alpha=0.3)
    if original["is_error"] and all(record["score"]["value"] > 0 for record in made):
        panels[0].set_yscale("log")
    panels[0].set_ylabel(original["title"])
    if made:
        panels[0].legend(fontsize=8)
    save_figure(figure, path)


def _line(record: Record) -> str:
    return f"{record['budget']}, {record['family']}"


def _score(record: Record, original: Record) -> str:
    score = record["score"]
    if original["is_error"]:
        return f"{score['value']:.4f}"
    low, high = 100 * score["low"], 100 * score["high"]
    return f"{_percent(record)} ({low:+.1f} to {high:+.1f})"


def _percent(record: Record) -> str:
    return f"{100 * record['score']['value']:.1f}"
