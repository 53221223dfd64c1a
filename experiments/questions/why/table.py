"""Render the figures of ``run.py``, without computing any of them again.

python -m experiments.questions.why.table            writes results.md from results.json
python -m experiments.questions.why.table --check    fails unless results.md and the README say
                                                     what results.json says
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from decompose.utils.tables import Table
from experiments.common.records import render_or_check

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
SHOWN_TERMS = 4


def summarize(record: Mapping[str, Any]) -> list[Table]:
    """A row a network, the worked kernels, and a row a layer of every network."""
    networks = record["networks"]
    return [
        Table(
            "Energy that the first terms hold, PW+DW; medians over a network's layers",
            [
                "model",
                "trained to distinguish",
                "layers",
                "taps",
                "one term",
                "random weights",
                "half the weights",
                "random weights",
            ],
            [
                (name, network["trained_on"], *_network_cells(network["layers"]))
                for name, network in networks.items()
            ],
        ),
        Table(
            "What the best single term of a kernel loses",
            ["kernel that looks for", "relative squared error"],
            [(title, f"{error:.2f}") for title, error in record["one_term"].items()],
        ),
        *(_layer_table(name, network["layers"]) for name, network in networks.items()),
    ]


def _network_cells(layers: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    taps = sorted({layer["taps"] for layer in layers})
    cells = [f"{taps[0]}" if len(taps) == 1 else f"{taps[0]} to {taps[-1]}"]
    for terms in (lambda layer: 1, lambda layer: layer["half"]):
        for weights in ("trained", "random"):
            cells.append(f"{median(layer[weights][terms(layer) - 1] for layer in layers):.0%}")
    return str(len(layers)), *cells


def _layer_table(name: str, layers: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for layer in layers:
        held = [f"{100 * share:.1f}" for share in layer["trained"][:SHOWN_TERMS]]
        held += [""] * (SHOWN_TERMS - len(held))
        half = layer["half"]
        halves = [f"{100 * layer[weights][half - 1]:.1f}" for weights in ("trained", "random")]
        rows.append((layer["name"], layer["shape"], *held, f"{half}", *halves))
    terms = [f"T={term}" for term in range(1, SHOWN_TERMS + 1)]
    return Table(
        f"{name}: energy in % held by T terms, and by as many as have half the weights",
        ["layer", "kernel", *terms, "half: T", "holds", "random weights"],
        rows,
    )


if __name__ == "__main__":
    sys.exit(render_or_check(sys.argv[1:], FOLDER, README, summarize))
