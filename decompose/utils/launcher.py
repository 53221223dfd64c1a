"""Processes that end with the launcher that started them, ``torchrun`` or ``accelerate launch``."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys

_PR_SET_PDEATHSIG = 1

_LOST = re.compile(r"closed by peer|connection reset|broken pipe|gloo|nccl", re.IGNORECASE)


def is_launched() -> bool:
    """Whether this is one of several processes of a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def end_with_launcher() -> None:
    """Have the kernel end this process when the launcher dies, also by SIGKILL.

    Without it a killed launcher's processes would train on. Nothing happens where none launched this one,
    or where the system is not Linux.
    """
    if not is_launched() or sys.platform != "linux":
        return
    launcher = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != launcher:
        # It died before the kernel was asked.
        os.kill(os.getpid(), signal.SIGTERM)


def is_lost_peer(error: Exception) -> bool:
    """Whether an error means that another process of the launcher is gone."""
    return is_launched() and _LOST.search(str(error)) is not None
