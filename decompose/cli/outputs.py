"""Print and write the results of commands."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decompose.evaluation.agreement import Agreement
from decompose.models.plans import KEPT, NARROWED, Plan
from decompose.utils.errors import printable
from decompose.utils.files import write_text
from decompose.utils.name_patterns import abbreviated
from decompose.utils.tables import Table, show_table


@dataclass(frozen=True)
class OutputMode:
    """Which output of a command is printed, and how.

    Attributes:
        as_json: as one JSON document on standard output, without tables and lines.
        quiet: neither tables nor lines.
    """

    as_json: bool = False
    quiet: bool = False


_FOR_PEOPLE = OutputMode()
_HEADINGS = {
    KEPT: "Left decomposed as before",
    NARROWED: "Fewer channels, pruned with their reader",
}
"""Of layers without a method of their own, where they are not left dense, by the reason."""

_MODE: ContextVar[OutputMode] = ContextVar("output mode", default=_FOR_PEOPLE)


@contextmanager
def output_mode(*, as_json: bool, quiet: bool) -> Iterator[None]:
    """Change the output mode inside this context."""
    token = _MODE.set(OutputMode(as_json, quiet))
    try:
        yield
    finally:
        _MODE.reset(token)


def is_quiet() -> bool:
    """Whether only errors and warnings are printed."""
    return _MODE.get().quiet


def print_line(text: object) -> None:
    """Print a line for people."""
    if _MODE.get() == _FOR_PEOPLE:
        print(text)


def print_table(table: Table) -> None:
    """Print a table for people."""
    if _MODE.get() == _FOR_PEOPLE:
        show_table(table)


def write_table(path: Path | None, table: Table) -> None:
    """Write a table as Markdown where a file was asked for."""
    if path is not None:
        write_text(path, table.to_markdown())


def print_record(record: Mapping[str, Any]) -> None:
    """Print figures as JSON with ``--json``."""
    if _MODE.get().as_json:
        print(json.dumps(record, indent=2))


def write_record(path: Path | None, record: Mapping[str, Any]) -> None:
    """Write figures as JSON if a file is given."""
    if path is not None:
        write_text(path, json.dumps(record, indent=2) + "\n")


def print_dense(plan: Plan) -> None:
    """Print the convolutions that a plan leaves as they are, with the reasons."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, reason in plan.dense.items():
        names[reason].append(name)
    for reason, group in names.items():
        print_line(f"{_HEADINGS.get(reason, f'Left dense, {reason}')}: {abbreviated(group)}")
    if not plan.layers:
        print("warning: nothing was decomposed; the file holds the original model", file=sys.stderr)


def print_left_alone(reasons: Mapping[str, str]) -> None:
    """Print the convolutions of an ONNX model that are none of its layers, with the reasons."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in reasons.items():
        by_reason[reason].append(name)
    for reason, names in by_reason.items():
        print_line(f"Left alone, {reason}: {abbreviated(names)}")


def print_latency(plan: Plan) -> None:
    """Print the planned model's predicted and measured latency."""
    if (pace := plan.pace) is not None:
        predicted, measured = (
            f"{ms:.1f} ms ({pace.original_ms / ms:.2f}× faster)"
            for ms in (pace.predicted_ms, pace.measured_ms)
        )
        print_line(
            f"Batch {pace.batch_size} in {pace.place}: {pace.original_ms:.1f} ms before; "
            f"predicted {predicted}, measured {measured}"
        )


def print_agreement(found: Agreement | None, *, synthetic: bool) -> None:
    """Print the share of inputs that keep the original's class, and warn where it is small."""
    if found is None:
        return
    kind = "synthetic inputs" if synthetic else "calibration images"
    print_line(f"Same class as the original: {found.num_same} of {found.num} {kind}")
    if found.is_alarming:
        print(
            f"warning: only {found.share:.0%} of the {kind} keep the original's class; expect to lose "
            "most of the accuracy: keep more, calibrate on images, or finetune",
            file=sys.stderr,
        )


def print_files(*paths: Path | None) -> None:
    """Print the names of written files."""
    if written := ", ".join(str(path) for path in paths if path is not None):
        print_line(f"Wrote {written}")


def print_unreadable(unreadable: Mapping[str, str]) -> None:
    """Print the number and names of unreadable images."""
    for path, reason in unreadable.items():
        print(printable(f"unreadable: {path}: {reason}"), file=sys.stderr)
    if unreadable:
        print(f"{len(unreadable)} images could not be read and do not count", file=sys.stderr)
