"""End worker processes together with their launcher, ``torchrun`` or ``accelerate launch``."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress

from decompose.utils import last_line

LOST = "error: a process of the run has ended, and the others with it"
"""What is said where a process was killed, and can say nothing itself."""

_PR_SET_PDEATHSIG = 1

_LOST = re.compile(r"closed by peer|connection reset|broken pipe|gloo|nccl", re.IGNORECASE)


def is_launched() -> bool:
    """Whether this is one of several processes of a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def end_with_launcher() -> LastLine:
    """Ask the kernel to end this process when the launcher dies, also by SIGKILL.

    Without it a killed launcher's processes would train on. Nothing happens where none launched this one,
    or where the system is not Linux.

    Returns:
        What is printed last, behind the launcher's own lines.
    """
    if not is_launched() or sys.platform != "linux":
        return LastLine()
    launcher = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != launcher:
        # It died before the kernel was asked.
        os.kill(os.getpid(), signal.SIGTERM)
    # One speaks for all on a machine.
    return LastLine(launcher, speaks=os.environ.get("LOCAL_RANK", "0") == "0")


class LastLine:
    """The last line on standard error of a run that fails, from a process that outlives the launcher.

    Args:
        launcher: its process; ``None`` where nobody prints behind this one.
        speaks: whether this process speaks for those beside it.
    """

    def __init__(self, launcher: int | None = None, *, speaks: bool = False) -> None:
        self._is_launched = launcher is not None
        self._printer: subprocess.Popen[bytes] | None = None
        if speaks:
            self._printer = subprocess.Popen(
                [sys.executable, "-I", "-S", last_line.__file__, str(launcher), LOST],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                # Ctrl-C and what ends a launcher's group are not for it.
                start_new_session=True,
            )

    def close(self, line: str | None) -> None:
        """Print how this process ends, at once and behind what the launcher prints.

        Args:
            line: ``None`` where all went well; ``LOST`` is printed once.
        """
        if line is not None and not (self._is_launched and line == LOST):
            print(line, file=sys.stderr)
        if self._printer is not None and self._printer.stdin is not None:
            content = last_line.DONE if line is None else line.encode(errors="replace")
            with suppress(OSError), self._printer.stdin as stdin:
                stdin.write(content)


def is_lost_peer(error: Exception) -> bool:
    """Whether an error means that another process of the launcher is gone."""
    return is_launched() and _LOST.search(str(error)) is not None
