"""Match names of layers with patterns.

A pattern fits a layer's full name, the name of a module that holds it, or is one of the shell's
(``conv4_*``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeVar

from decompose.utils.errors import DecomposeError

T = TypeVar("T")

_MOST_NAMED = 6


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern fits a layer's name."""
    return name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)


def last_match(values: Mapping[str, T], name: str) -> T | None:
    """The value of the last pattern that fits a layer's name, if any does."""
    fitting = [value for pattern, value in values.items() if matches(name, pattern)]
    return fitting[-1] if fitting else None


def require_match(names: Iterable[str], pattern: str) -> None:
    """Check that a pattern fits a layer.

    Raises:
        DecomposeError: it fits none.
    """
    known = list(names)
    if any(matches(name, pattern) for name in known):
        return
    close = get_close_matches(pattern, known)
    hint = f"did you mean {', '.join(close)}?" if close else f"there are: {abbreviated(known)}"
    raise DecomposeError(f"{pattern}: no layer has that name; {hint}")


def abbreviated(names: Sequence[str], most: int = _MOST_NAMED) -> str:
    """Abbreviate a list of names: the first few, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
