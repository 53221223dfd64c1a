"""Render the figures of ``run.py``, without computing any of them again.

python experiments/vgg16_decoupled/table.py            writes results.md from results.json
python experiments/vgg16_decoupled/table.py --check    fails unless results.md and the README
                                                       say what results.json says
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decompose.benchmark import SideBySide
from decompose.comparison import Comparison
from decompose.files import write_text
from decompose.tables import Table

FOLDER = Path(__file__).parent
README = FOLDER.parents[1] / "README.md"


def render(record: Mapping[str, Any]) -> str:
    """The results as Markdown: a summary, then a row a layer.

    Args:
        record: what ``run.py`` wrote to results.json.
    """
    layers = Comparison.from_dict(record["comparison"]).table().to_markdown()
    return f"{summarize(record).to_markdown()}\n{layers}"


def summarize(record: Mapping[str, Any]) -> Table:
    """The network before and after, in a few lines."""
    comparison = Comparison.from_dict(record["comparison"])
    latency = SideBySide.from_dict(record["latency"])
    before, after = latency.latencies
    digits = record["digits"]
    original, decoupled = (digits["accuracies"][name] for name in ("original", "decoupled"))
    speed_up = before.latency_ms / after.latency_ms
    batch = "×".join(map(str, latency.input_shape))
    return Table(
        "VGG16's convolutions, PW+DW with four terms, no data and no training",
        ["", "original", "decoupled", "change"],
        [
            count("GMACs at 224×224", comparison.macs.before, comparison.macs.after, 1e9, 2),
            count("M parameters", comparison.params.before, comparison.params.after, 1e6, 2),
            (
                f"relative error of pool5, {comparison.num_inputs} photographs",
                "",
                f"{comparison.output_error:.3f}",
                "",
            ),
            accuracy("digits: classifier of original features", "same", original, decoupled),
            accuracy("digits: classifier of own features", "own", original, decoupled),
            (
                f"ms for {batch}, {latency.num_threads} threads",
                f"{before.latency_ms:.0f} ± {before.spread_ms:.0f}",
                f"{after.latency_ms:.0f} ± {after.spread_ms:.0f}",
                f"{speed_up:.2f}× faster" if speed_up >= 1 else f"{1 / speed_up:.2f}× slower",
            ),
            (
                "seconds to decouple it, PW+DW and DW+PW",
                "",
                " and ".join(f"{record['decoupling_s'][name]:.2f}" for name in ("pw_dw", "dw_pw")),
                "",
            ),
        ],
    )


def count(label: str, before: int, after: int, unit: float, decimals: int) -> tuple[str, ...]:
    """A row of counts."""
    return (
        label,
        f"{before / unit:.{decimals}f}",
        f"{after / unit:.{decimals}f}",
        f"{before / after:.2f}× fewer",
    )


def accuracy(
    label: str, kind: str, original: Mapping[str, float], decoupled: Mapping[str, float]
) -> tuple[str, ...]:
    """A row of accuracies."""
    before, after = original[f"{kind}_classifier"], decoupled[f"{kind}_classifier"]
    return label, f"{before:.1%}", f"{after:.1%}", f"{100 * (after - before):+.1f} points"


def main(arguments: list[str]) -> int:
    """Write the table, or check that it and the README still follow from the figures."""
    record = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    results = FOLDER / "results.md"
    if arguments != ["--check"]:
        write_text(results, render(record))
        return 0
    stale = []
    if results.read_text(encoding="utf-8") != render(record):
        stale.append(results)
    if summarize(record).to_markdown() not in README.read_text(encoding="utf-8"):
        stale.append(README)
    for path in stale:
        print(f"{path}: its table does not follow from {FOLDER / 'results.json'}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
