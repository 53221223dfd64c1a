"""Progress bars on long work, where a person is watching."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Iterate with a bar on standard error; without one where that is no terminal.

    Args:
        items: what to iterate over.
        description: what is being done.
        total: number of items, where ``items`` has no length.
    """
    # Rich is not needed by those who only import the algebra.
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(stderr=True)
    if total is None and isinstance(items, Sequence):
        total = len(items)
    return rich_track(
        items,
        description,
        total=total,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def watching(description: str, done: int, total: int) -> Iterator[Callable[[str], None]]:
    """A bar with figures beside it and the time left; nothing where standard error is no terminal.

    Args:
        description: what is being done.
        done: steps done before.
        total: steps in all.

    Yields:
        What to call after each step, with the figures to show.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        task = bars.add_task(description, total=total, completed=done, figures="")

        def advance(figures: str) -> None:
            bars.update(task, advance=1, figures=figures)

        yield advance
