"""Times of calls that take turns, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from decompose.inference.engines import PreparedModel


class Timed(NamedTuple):
    """How long a call takes.

    Attributes:
        median_ms: over the rounds, in milliseconds.
        spread_ms: distance between the quartiles of the rounds, in milliseconds.
    """

    median_ms: float
    spread_ms: float


def time_in_turns(
    calls: Mapping[str, PreparedModel],
    rounds: Iterable[int],
    num_threads: int,
    *,
    calls_a_round: int = 2,
) -> dict[str, Timed]:
    """Time each call once a round, after a warm-up.

    Args:
        calls: by name.
        rounds: as many turns as this has items.
        num_threads: of torch, on the CPU.
        calls_a_round: that are timed, behind two that are not.
    """
    # Imported here: it looks for a compiler, and says so where it finds half of one.
    from torch.utils.benchmark import Timer

    timers = {
        name: Timer("call()", globals={"call": call}, num_threads=num_threads)
        for name, call in calls.items()
    }
    for call in calls.values():
        call()
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    for _ in rounds:
        for name, timer in timers.items():
            times_ms[name].append(1e3 * timer.timeit(calls_a_round).mean)
    return {name: _summary(times) for name, times in times_ms.items()}


def _summary(times_ms: list[float]) -> Timed:
    lower, median, upper = np.percentile(times_ms, (25, 50, 75))
    return Timed(float(median), float(upper - lower))
