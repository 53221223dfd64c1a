"""Import optional dependencies, or say how to install them."""

from __future__ import annotations

import importlib
from typing import Any

from decompose.utils.errors import DecomposeError, first_line


def required(module: str, title: str, extra: str) -> Any:
    """Import a module that belongs to an optional extra.

    Args:
        module: its full name.
        title: its name in messages.
        extra: the extra's name in pyproject.toml.

    Raises:
        DecomposeError: it is not installed, or cannot be imported for another reason.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            reason = f"is not installed: pip install 'torch-decompose[{extra}]'"
        else:
            reason = f"cannot be imported: {first_line(error)}"
        raise DecomposeError(f"{title} {reason}") from None
