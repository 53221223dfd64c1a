"""Report progress: bars in a terminal, a line now and then in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

_IS_QUIET: ContextVar[bool] = ContextVar("quiet progress", default=False)

_EVERY_S = 30.0
"""Seconds between the lines of a log."""


@contextmanager
def quiet_progress() -> Iterator[None]:
    """Show no progress inside this context."""
    token = _IS_QUIET.set(True)
    try:
        yield
    finally:
        _IS_QUIET.reset(token)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Iterate with a progress bar on standard error; where that is no terminal, with lines.

    Args:
        items: what to iterate over.
        description: what is being done.
        total: number of items, where ``items`` has no length.
    """
    if _IS_QUIET.get():
        return items
    # Rich is not needed by those who only import the algebra.
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(stderr=True)
    if total is None and isinstance(items, Sequence):
        total = len(items)
    if not console.is_terminal:
        return _logged(items, _Log(description, total))
    return rich_track(items, description, total=total, console=console, transient=True)


@contextmanager
def watching(description: str, done: int, total: int) -> Iterator[Callable[[str], None]]:
    """Show a progress bar with figures and the time left; where there is no terminal, lines.

    Args:
        description: what is being done.
        done: steps done before.
        total: steps in all.

    Yields:
        What to call after each step, with the figures to show.
    """
    if _IS_QUIET.get():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    log = None if console.is_terminal else _Log(description, total)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=log is not None) as bars:
        task = bars.add_task(description, total=total, completed=done, figures="")

        def advance(figures: str) -> None:
            bars.update(task, advance=1, figures=figures)
            if log is not None:
                log.write(int(bars.tasks[task].completed), figures)

        yield advance


class _Log:
    """Writes lines about the progress to standard error, not too often for a log."""

    def __init__(self, description: str, total: int | None) -> None:
        self._description, self._total = description, total
        self._last_s = time.monotonic()

    def write(self, done: int, figures: str = "") -> None:
        """Write a line about the progress, unless the last one is recent."""
        # The first of several processes writes; torchrun and accelerate set RANK.
        is_first = os.environ.get("RANK", "0") == "0"
        if not is_first or time.monotonic() - self._last_s < _EVERY_S:
            return
        self._last_s = time.monotonic()
        of = "" if self._total is None else f" of {self._total}"
        print(f"{self._description}: {done}{of} {figures}".rstrip(), file=sys.stderr, flush=True)


def _logged(items: Iterable[T], log: _Log) -> Iterator[T]:
    for done, item in enumerate(items):
        log.write(done)
        yield item
