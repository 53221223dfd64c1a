"""The ``decompose`` command. The files in ``scripts/`` run the same commands from a checkout."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from io import TextIOWrapper

from typer import TyperException

from decompose.cli.commands import app
from decompose.utils.distributed import leave
from decompose.utils.errors import DecomposeError, printable
from decompose.utils.launcher import LOST, end_with_launcher, is_lost_peer

_INTERRUPTED = 130
"""Exit code after Ctrl-C in shells: 128 plus the signal's number."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the program's name; the process's own by default.

    Returns:
        The exit code: 2 after bad input and 130 after Ctrl-C, each with one line on standard error.
    """
    for stream in (sys.stdout, sys.stderr):
        # What a terminal cannot show is no reason to end.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    last_line = end_with_launcher()
    try:
        code, line = _run(arguments)
        last_line.close(line)
    finally:
        leave()
    return code


def _run(arguments: Sequence[str] | None) -> tuple[int, str | None]:
    """Run a command; its exit code, and the line that says what it ended in."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            code = app(arguments, standalone_mode=False) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except DecomposeError as error:
        return _refused(str(error))
    except TyperException as error:
        return _refused(error.format_message())
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        return 2, LOST
    except BrokenPipeError:
        _drop_output()
        return 1, None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _drop_output()
        return _refused(f"standard output: cannot be written: {error.strerror}")
    return code, "interrupted" if code == _INTERRUPTED else None


def _refused(message: str) -> tuple[int, str | None]:
    # Without a command the help was shown, and there is no message.
    return 2, f"error: {_line(message)}" if message else None


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """Show a warning as one line."""
    print(f"warning: {_line(str(message))}", file=sys.stderr)


def _line(message: str) -> str:
    return printable(" ".join(message.splitlines()))


def _drop_output() -> None:
    """Discard output that is still to be printed, so that Python ends without another message."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
