"""Time calls in turns, so that other load on the machine falls on all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from decompose.inference.engines import PreparedModel


class Timed(NamedTuple):
    """The time of a call.

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
    device: torch.device | None = None,
) -> dict[str, Timed]:
    """Time each call once a round, after a warm-up.

    On a GPU the time is taken by CUDA events around several calls, since one may be over before the
    CPU has asked for the next.

    Args:
        calls: by name.
        rounds: as many turns as this has items.
        num_threads: of torch, on the CPU.
        calls_a_round: that are timed, behind two that are not; ten times as many on a GPU.
        device: where the calls run; the CPU by default.
    """
    if device is not None and device.type == "cuda":
        stopwatch = partial(_gpu_ms, num_calls=10 * calls_a_round)
    else:
        stopwatch = partial(_cpu_ms, num_calls=calls_a_round, num_threads=num_threads)
    for call in calls.values():
        call()
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    for _ in rounds:
        for name, call in calls.items():
            times_ms[name].append(stopwatch(call))
    return {name: _summary(times) for name, times in times_ms.items()}


def _cpu_ms(call: PreparedModel, num_calls: int, num_threads: int) -> float:
    """Milliseconds of one call, with torch's own timer."""
    # Imported here: it looks for a compiler, and says so where it finds half of one.
    from torch.utils.benchmark import Timer

    timer = Timer("call()", globals={"call": call}, num_threads=num_threads)
    return 1e3 * timer.timeit(num_calls).mean


def _gpu_ms(call: PreparedModel, num_calls: int) -> float:
    """Milliseconds of one call between two CUDA events."""
    call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(num_calls):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / num_calls


def _summary(times_ms: list[float]) -> Timed:
    lower, median, upper = np.percentile(times_ms, (25, 50, 75))
    return Timed(float(median), float(upper - lower))
