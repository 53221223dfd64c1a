"""The ``decompose`` command. The files in ``scripts/`` run the same commands from a checkout."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from typer import TyperException

from decompose.cli.commands import app
from decompose.utils.distributed import leave
from decompose.utils.errors import DecomposeError

_INTERRUPTED = 130
"""As shells count it: 128 and the signal's number."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the program's name; the process's own by default.

    Returns:
        The exit code: 2 after bad input and 130 after Ctrl-C, each with one line on standard error.
    """
    try:
        code = app(arguments, standalone_mode=False) or 0
        return _interrupted() if code == _INTERRUPTED else code
    except KeyboardInterrupt:
        return _interrupted()
    except DecomposeError as error:
        return _refuse(str(error))
    except TyperException as error:
        return _refuse(error.format_message())
    finally:
        leave()


def _interrupted() -> int:
    print("interrupted", file=sys.stderr)
    return _INTERRUPTED


def _refuse(message: str) -> int:
    # Without a command the help was shown, and there is no message.
    if message:
        print(f"error: {message}", file=sys.stderr)
    return 2
