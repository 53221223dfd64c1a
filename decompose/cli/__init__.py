"""The ``decompose`` command. The files in ``scripts/`` run the same commands from a checkout."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from decompose.cli.commands import app
from decompose.errors import DecomposeError
from decompose.processes import leave


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the program's name; the process's own by default.

    Returns:
        The exit code: 2 after bad input, which is told in one line on standard error.
    """
    try:
        app(arguments)
    except DecomposeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        leave()
    return 0
