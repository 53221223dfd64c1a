"""Print a line behind what a launcher prints of a process that was lost; a program of its own.

    python last_line.py LAUNCHER LINE

It waits until the process that started it, which holds the other end of its standard input, has ended,
and then until its launcher has; ``torchrun`` prints some forty lines in between. What that process writes
into its input is printed instead of LINE, and nothing where that is ``DONE``.
"""

from __future__ import annotations

import os
import select
import sys

DONE = b"done"

_SECONDS = 10.0
"""How long a launcher may take to end; one that starts its processes anew does not."""


def main(launcher: int, line: bytes) -> None:
    """Wait, and print the line.

    Args:
        launcher: its process.
        line: for standard error, where the process that started this one writes nothing.
    """
    try:
        watched = os.pidfd_open(launcher)
    except OSError:
        return
    written = b""
    while 0 in select.select([0, watched], [], [])[0]:
        if not (part := os.read(0, 65536)):
            break
        written += part
    if written != DONE:
        select.select([watched], [], [], _SECONDS)
        os.write(2, (written or line) + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), os.fsencode(sys.argv[2]))
