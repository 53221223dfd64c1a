"""What the commands print and write besides tables."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decompose.models.plans import Plan
from decompose.utils.files import write_text
from decompose.utils.name_patterns import abbreviated


def write_record(path: Path | None, record: Mapping[str, Any]) -> None:
    """Write figures as JSON, where a file was asked for."""
    if path is not None:
        write_text(path, json.dumps(record, indent=2) + "\n")


def print_dense(plan: Plan) -> None:
    """Say which convolutions a plan leaves as they are, and why."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, reason in plan.dense.items():
        names[reason].append(name)
    for reason, group in names.items():
        print(f"Left dense, {reason}: {abbreviated(group)}")
    if not plan.layers:
        print(
            "warning: nothing was rewritten; the file holds the original network", file=sys.stderr
        )


def tell_left_alone(reasons: Mapping[str, str]) -> None:
    """Say which convolutions of an ONNX model are none of its layers, and why."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in reasons.items():
        by_reason[reason].append(name)
    for reason, names in by_reason.items():
        print(f"Left alone, {reason}: {abbreviated(names)}")


def print_latency(plan: Plan) -> None:
    """Say how fast the planned network was predicted to be, and is."""
    if (pace := plan.pace) is not None:
        predicted, measured = (
            f"{ms:.1f} ms ({pace.original_ms / ms:.2f}× faster)"
            for ms in (pace.predicted_ms, pace.measured_ms)
        )
        print(
            f"Batch {pace.batch_size} in {pace.place}: {pace.original_ms:.1f} ms before; "
            f"predicted {predicted}, measured {measured}"
        )


def print_files(*paths: Path | None) -> None:
    """Say which files were written."""
    if written := ", ".join(str(path) for path in paths if path is not None):
        print(f"Wrote {written}")


def tell_unreadable(unreadable: Mapping[str, str]) -> None:
    """Name the pictures that could not be read, and count them."""
    for path, reason in unreadable.items():
        print(f"unreadable: {path}: {reason}", file=sys.stderr)
    if unreadable:
        print(f"{len(unreadable)} pictures could not be read and do not count", file=sys.stderr)
