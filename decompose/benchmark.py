"""Time, side by side: networks take turns, so that whatever else the machine does falls on all.

A latency alone says little, since machines differ and drift. What is reported is the ratio to the
first network, timed in the same process, in the same minutes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from decompose.errors import DecomposeError
from decompose.layers import count_macs, evaluating, trace_shapes
from decompose.progress import track
from decompose.tables import Table, format_count

_CALLS_A_ROUND = 3


@dataclass(frozen=True)
class Latency:
    """How long a network takes for one batch.

    Attributes:
        name: the network's.
        latency_ms: median over the rounds, in milliseconds.
        spread_ms: distance between the quartiles of the rounds, in milliseconds.
        macs: MACs for one input.
    """

    name: str
    latency_ms: float
    spread_ms: float
    macs: int


@dataclass(frozen=True)
class SideBySide:
    """Latencies of networks that took turns; the first is what the others are compared with.

    Attributes:
        latencies: one a network.
        input_shape: of the batch.
        num_rounds: turns that each network had.
        num_threads: of torch, on the CPU.
        channels_last: whether weights and inputs lay in channels-last order.
        device: where they ran.
    """

    latencies: tuple[Latency, ...]
    input_shape: tuple[int, ...]
    num_rounds: int
    num_threads: int
    channels_last: bool
    device: str

    def table(self) -> Table:
        """A row a network. Efficiency is the speed-up over the ratio of MACs."""
        first = self.latencies[0]
        rows = []
        for latency in self.latencies:
            speed_up = first.latency_ms / latency.latency_ms
            mac_ratio = first.macs / latency.macs
            rows.append(
                (
                    latency.name,
                    format_count(latency.macs / 1e6),
                    f"{latency.latency_ms:,.1f}",
                    f"{latency.spread_ms:,.1f}",
                    f"{mac_ratio:.2f}",
                    f"{speed_up:.2f}",
                    f"{speed_up / mac_ratio:.0%}",
                )
            )
        layout = "channels-last" if self.channels_last else "contiguous"
        return Table(
            f"Latency of a batch {'×'.join(map(str, self.input_shape))} on {self.device}, "
            f"{self.num_threads} threads, {layout}",
            ("network", "MMACs", "ms", "±", "MAC\nratio", "speed-up", "efficiency"),
            rows,
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> SideBySide:
        """What ``to_dict`` made."""
        latencies = tuple(Latency(**latency) for latency in record["latencies"])
        return cls(
            **{**record, "latencies": latencies, "input_shape": tuple(record["input_shape"])}
        )


def time_side_by_side(
    networks: Mapping[str, nn.Module],
    example: Tensor,
    *,
    num_rounds: int = 7,
    num_threads: int | None = None,
    channels_last: bool = True,
    device: torch.device | str = "cpu",
) -> SideBySide:
    """Time networks in turns, on the same input.

    Args:
        networks: by name, the one to compare with first; they are copied, not changed.
        example: one batch.
        num_rounds: turns that each has; a turn is a few calls, after a warm-up.
        num_threads: of torch, on the CPU; its own number by default.
        channels_last: lay weights and 2-D inputs out in channels-last order, which convolutions
            on CPUs and tensor cores prefer.
        device: where to run.

    Raises:
        DecomposeError: a network does not take the example, or a number is not positive.
    """
    # Imported here: it looks for a compiler, and says so where it finds half of one.
    from torch.utils.benchmark import Timer

    num_threads = torch.get_num_threads() if num_threads is None else num_threads
    if num_rounds < 1 or num_threads < 1 or not len(example):
        raise DecomposeError("rounds, threads and batch size must be 1 or more")
    channels_last = channels_last and example.ndim == 4
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x = example.to(device).contiguous(memory_format=memory_format)
    placed: dict[str, nn.Module] = {}
    macs: dict[str, int] = {}
    for name, network in networks.items():
        macs[name] = sum(count_macs(network, trace_shapes(network, example)).values())
        placed[name] = copy.deepcopy(network).to(device)
        if channels_last:
            placed[name].to(memory_format=torch.channels_last)
    timers = {
        name: Timer("network(x)", globals={"network": network, "x": x}, num_threads=num_threads)
        for name, network in placed.items()
    }
    times_ms: dict[str, list[float]] = {name: [] for name in networks}
    with evaluating(*placed.values()):
        for _ in track(range(num_rounds), "timing"):
            for name, timer in timers.items():
                times_ms[name].append(1e3 * timer.timeit(_CALLS_A_ROUND).mean)
    return SideBySide(
        tuple(_latency(name, times_ms[name], macs[name]) for name in networks),
        tuple(example.shape),
        num_rounds,
        num_threads,
        channels_last,
        str(device),
    )


def _latency(name: str, times_ms: list[float], macs: int) -> Latency:
    lower, median, upper = np.percentile(times_ms, (25, 50, 75))
    return Latency(name, float(median), float(upper - lower), macs)
