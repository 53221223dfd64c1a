"""Packages that only some users need, and the line that tells the others how to come by them."""

from __future__ import annotations

import importlib
from typing import Any

from decompose.errors import DecomposeError


def required(module: str, title: str, extra: str) -> Any:
    """Import a module that an extra brings.

    Args:
        module: its full name.
        title: what it is called in sentences.
        extra: the extra's name in pyproject.toml.

    Raises:
        DecomposeError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DecomposeError(
            f"{title} is not installed: pip install 'decompose[{extra}]'"
        ) from None
