"""Progress bars on long work, where a person is watching."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
