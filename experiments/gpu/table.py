"""Render the figures of ``run.py``, without computing any of them again.

python -m experiments.gpu.table            writes results.md from results.json
python -m experiments.gpu.table --check    fails unless results.md and the README say what
                                           results.json says
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decompose.inference.benchmark import Benchmark
from decompose.utils.tables import Table
from experiments.common.records import render_or_check
from experiments.gpu.models import ORIGINAL

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"


def summarize(record: Mapping[str, Any]) -> list[Table]:
    """Time to compress, time to run, and agreement with the CPU."""
    return [compressed(record), latencies(record), agreement(record)]


def _where(record: Mapping[str, Any]) -> str:
    machine = record["setting"]["environment"]["machine"]
    return machine if record["device"] == "cuda" else f"{machine}: no GPU was measured"


def compressed(record: Mapping[str, Any]) -> Table:
    """A row a model: what planning and repairing take."""
    rows = []
    for title in record["setting"]["models"]:
        found = record["compressed"].get(title)
        if found is None:
            rows.append((title, "not measured", *[""] * 5))
            continue
        if "failed" in found:
            rows.append((title, found["failed"], *[""] * 5))
            continue
        seconds = found["plan_seconds"] + found["repair_seconds"]
        peak = found.get("peak_bytes")
        rows.append(
            (
                title,
                f"{found['pass_ms']:.2f}",
                f"{found['plan_seconds']:.1f}",
                f"{found['repair_seconds']:.1f}",
                f"{1e3 * seconds / found['pass_ms']:,.0f}",
                "" if peak is None else f"{peak / 1e9:.2f}",
                f"{found['output_error']:.4f}",
            )
        )
    return Table(
        f"Half the MACs, planned and repaired on {record['setting']['num_images']} synthetic images "
        f"where the model lies; random weights; {_where(record)}",
        [
            "model",
            "pass, ms",
            "plan, s",
            "repair, s",
            "in passes",
            "peak, GB",
            "output error",
        ],
        rows,
    )


def latencies(record: Mapping[str, Any]) -> Table:
    """A row a smaller model, dtype and engine; a column a batch size: speed-up and efficiency."""
    batches = record["setting"]["batch_sizes"]
    rows = []
    for found in record["latencies"]:
        if "failed" in found:
            cells = [found["failed"], *[""] * len(batches)]
            rows.append((found["model"], "", found["dtype"], found["engine"], *cells))
            continue
        ratios = Benchmark.from_dict(found["timed"]).ratios()
        dense_ms = {r.latency.batch_size: r.latency.latency_ms for r in ratios if r.macs == 1}
        by_name: dict[str, dict[int, str]] = {}
        macs = {}
        for ratio in ratios:
            if ratio.latency.name != ORIGINAL:
                cells = by_name.setdefault(ratio.latency.name, {})
                size = ratio.latency.batch_size
                cells[size] = (
                    f"{dense_ms[size]:.2f} → {ratio.latency.latency_ms:.2f} ({ratio.speed_up:.2f}×)"
                )
                macs[ratio.latency.name] = f"{ratio.macs:.2f}×"
        for name, cells in by_name.items():
            there = [cells.get(size, "") for size in batches]
            rows.append((found["model"], name, found["dtype"], found["engine"], macs[name], *there))
    return Table(
        f"Milliseconds of dense and smaller models, and how many times faster; {_where(record)}",
        [
            "model",
            "made smaller by",
            "dtype",
            "engine",
            "fewer MACs",
            *(f"batch {b}" for b in batches),
        ],
        rows,
    )


def agreement(record: Mapping[str, Any]) -> Table:
    """A row a comparison: relative squared error."""
    found = record["agreement"]
    failed = found.get("failed")
    rows = (
        [(failed, "")]
        if failed
        else [
            (
                "repaired on both devices, outputs of one from the other's",
                f"{found['repaired']:.1e}",
            ),
            ("repaired on the CPU, outputs from the original's", f"{found['error']:.1e}"),
            ("layers that both devices' plans treat alike", f"{found['same_choices']:.0%}"),
            *(
                (f"Triton's kernel from eager torch, {dtype}", f"{error:.1e}")
                for dtype, error in found["triton"].items()
            ),
        ]
    )
    return Table(
        f"ResNet-18 at 64 × 64, half the MACs: CPU against {_where(record)}; relative squared errors",
        ["", "measured"],
        rows,
    )


if __name__ == "__main__":
    sys.exit(render_or_check(sys.argv[1:], FOLDER, README, summarize))
