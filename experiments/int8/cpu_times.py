"""CPU time of calls in turns, which other work on the machine changes little."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median

from decompose.inference.engines import PreparedModel

_NUM_ROUNDS = 9
_NUM_CALLS = 3


def cpu_times(calls: Mapping[str, PreparedModel]) -> dict[str, float]:
    """Median CPU milliseconds of each call over rounds, behind one that is not timed.

    Args:
        calls: by name; on one thread, since threads that wait in a loop would count.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(_NUM_ROUNDS):
        for name, call in calls.items():
            call()
            start = time.process_time()
            for _ in range(_NUM_CALLS):
                call()
            taken[name].append(1e3 * (time.process_time() - start) / _NUM_CALLS)
    return {name: median(times) for name, times in taken.items()}
