"""Render the figures of ``run.py``, without computing any of them again.

python -m experiments.vgg16_decoupled.table            writes results.md from results.json
python -m experiments.vgg16_decoupled.table --check    fails unless results.md and the README
                                                       say what results.json says
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decompose.evaluation.comparison import Change, Comparison
from decompose.inference.benchmark import Benchmark
from decompose.utils.tables import Table, format_threads
from experiments.common.records import render_or_check

FOLDER = Path(__file__).parent
README = FOLDER.parents[1] / "README.md"


def tables(record: Mapping[str, Any]) -> list[Table]:
    """A summary, then a row a layer of both networks.

    Args:
        record: what ``run.py`` wrote to results.json.
    """
    layers = [Comparison.from_dict(record[key]).table() for key in ("comparison", "mixture")]
    return [summarize(record), *layers]


def summarize(record: Mapping[str, Any]) -> Table:
    """The network before and after, in a few lines."""
    decoupled, mixture = (Comparison.from_dict(record[key]) for key in ("comparison", "mixture"))
    latency = Benchmark.from_dict(record["latency"])
    batch = "×".join(map(str, (latency.latencies[0].batch_size, *latency.input_shape)))
    seconds = " and ".join(f"{record['decoupling_s'][name]:.2f}" for name in ("pw_dw", "dw_pw"))
    return Table(
        "VGG16's convolutions, no data and no training: PW+DW with four terms, and the best mixture",
        ["", "original", "decoupled", "change", "mixture", "change"],
        [
            count("GMACs at 224×224", decoupled.macs, mixture.macs, 1e9),
            count("M parameters", decoupled.params, mixture.params, 1e6),
            (
                f"relative error of pool5, {decoupled.num_inputs} photographs",
                "",
                f"{decoupled.output_error:.3f}",
                "",
                f"{mixture.output_error:.3f}",
                "",
            ),
            accuracy("digits: classifier of original features", "same", record["digits"]),
            accuracy("digits: classifier of own features", "own", record["digits"]),
            (f"ms for {batch}, {format_threads(latency.num_threads)}", *latencies(latency)),
            ("seconds to decouple it, PW+DW and DW+PW", "", seconds, "", "", ""),
        ],
    )


def count(label: str, decoupled: Change, mixture: Change, unit: float) -> tuple[str, ...]:
    """A row of counts."""
    cells = (
        cell
        for change in (decoupled, mixture)
        for cell in (f"{change.after / unit:.2f}", f"{change.ratio:.2f}× fewer")
    )
    return label, f"{decoupled.before / unit:.2f}", *cells


def accuracy(label: str, kind: str, digits: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of accuracies."""
    before, *others = (
        digits["accuracies"][name][f"{kind}_classifier"]
        for name in ("original", "decoupled", "mixture")
    )
    cells = (
        cell
        for after in others
        for cell in (f"{after:.1%}", f"{100 * (after - before):+.1f} points")
    )
    return label, f"{before:.1%}", *cells


def latencies(timed: Benchmark) -> list[str]:
    """Times with their spread, and what they are to the original's."""
    before, *others = timed.latencies
    cells = [f"{before.latency_ms:.0f} ± {before.spread_ms:.0f}"]
    for after in others:
        speed_up = before.latency_ms / after.latency_ms
        faster = f"{speed_up:.2f}× faster" if speed_up >= 1 else f"{1 / speed_up:.2f}× slower"
        cells += [f"{after.latency_ms:.0f} ± {after.spread_ms:.0f}", faster]
    return cells


if __name__ == "__main__":
    sys.exit(render_or_check(sys.argv[1:], FOLDER, README, tables))
