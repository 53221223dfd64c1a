"""Run functions in forks with bounds of memory and time, and say how each ended."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from decompose.utils.errors import DecomposeError

READ, REFUSED = "read", "refused"

_TOGETHER = 50
"""Functions that one fork runs one after another; the next fork goes on where one ended."""

_BYTES = 2 << 30
"""Of memory that a fork may take beyond what the libraries have."""

_SECONDS = 30.0
"""That one function may take."""

Run = Callable[[], object]


def endings_of(runs: Sequence[Run]) -> Iterator[str]:
    """Say how functions end: ``READ``, ``REFUSED``, or in words what should not be."""
    done = 0
    while done < len(runs):
        for ending in _forked(runs[done : done + _TOGETHER]):
            done += 1
            yield ending


def _forked(runs: Sequence[Run]) -> Iterator[str]:
    """The endings of functions in one fork, up to the first that ends the fork."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _report(runs, writing)
    os.close(writing)
    told = 0
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        for line in _lines(pipe.fileno()):
            if line is None:
                os.kill(child, signal.SIGKILL)
                break
            told += 1
            yield json.loads(line)
    _, status = os.waitpid(child, 0)
    if told < len(runs):
        killed = os.WIFSIGNALED(status)
        if killed and os.WTERMSIG(status) == signal.SIGKILL:
            yield f"killed, or still running after {_SECONDS:.0f} s"
        else:
            yield f"ended by signal {os.WTERMSIG(status)}" if killed else "ended the process"


def _lines(pipe: int) -> Iterator[bytes | None]:
    """Lines as they are written; ``None`` where one takes too long."""
    content, deadline = b"", time.monotonic() + _SECONDS
    while True:
        if select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0] == []:
            yield None
            return
        if not (part := os.read(pipe, 65536)):
            return
        *lines, content = (content + part).split(b"\n")
        for line in lines:
            deadline = time.monotonic() + _SECONDS
            yield line


def _report(runs: Sequence[Run], writing: int) -> None:
    """Run the functions, write how each ended, and leave the fork."""
    try:
        _bound_memory()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        warnings.simplefilter("ignore")
        for run in runs:
            os.write(writing, json.dumps(_ending(run)[:2000]).encode() + b"\n")
    finally:
        sys.stdout = sys.stderr = None
        os._exit(0)


def _ending(run: Run) -> str:
    try:
        run()
    except DecomposeError as error:
        return f"more than one line: {error}" if "\n" in str(error) else REFUSED
    except BaseException as error:  # noqa: BLE001
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(where.filename)}:{where.lineno}"
        with suppress(Exception):
            return f"{type(error).__name__} at {place}: {error}"
        return f"{type(error).__name__} at {place}"
    return READ


def _bound_memory() -> None:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    most = pages * resource.getpagesize() + _BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
