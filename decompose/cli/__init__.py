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
from decompose.utils.launcher import end_with_launcher, is_lost_peer

_INTERRUPTED = 130
"""As shells count it: 128 and the signal's number."""


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
    end_with_launcher()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            code = app(arguments, standalone_mode=False) or 0
        sys.stdout.flush()
        return _interrupted() if code == _INTERRUPTED else code
    except KeyboardInterrupt:
        return _interrupted()
    except DecomposeError as error:
        return _refuse(str(error))
    except TyperException as error:
        return _refuse(error.format_message())
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        return _refuse("another process of the run has ended, and this one with it")
    except BrokenPipeError:
        _drop_output()
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _drop_output()
        return _refuse(f"standard output: cannot be written: {error.strerror}")
    finally:
        leave()


def _interrupted() -> int:
    print("interrupted", file=sys.stderr)
    return _INTERRUPTED


def _refuse(message: str) -> int:
    # Without a command the help was shown, and there is no message.
    if message:
        print(f"error: {_line(message)}", file=sys.stderr)
    return 2


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """Show a warning as one line."""
    print(f"warning: {_line(str(message))}", file=sys.stderr)


def _line(message: str) -> str:
    return printable(" ".join(message.splitlines()))


def _drop_output() -> None:
    """Let what is still to be printed go nowhere, so that Python ends without more words."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
