"""Names of layers, and patterns of names.

A pattern fits a layer's full name, the name of a module that holds it, or is one of the shell's
(``conv4_*``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

from decompose.errors import DecomposeError

T = TypeVar("T")


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
    if not any(matches(name, pattern) for name in names):
        raise DecomposeError(f"{pattern}: no layer has that name; there are: {', '.join(names)}")
