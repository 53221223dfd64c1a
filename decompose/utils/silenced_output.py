"""Silence compiled libraries that print past Python."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

_DESCRIPTORS = 1, 2
"""Standard output and error."""


@contextmanager
def silenced() -> Iterator[None]:
    """Send the process's standard output and error nowhere inside this context."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    with ExitStack() as stack:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nowhere)
        for descriptor in _DESCRIPTORS:
            # A process may have been started without it.
            with suppress(OSError):
                kept = os.dup(descriptor)
                stack.callback(os.close, kept)
                stack.callback(os.dup2, kept, descriptor)
                os.dup2(nowhere, descriptor)
        yield
