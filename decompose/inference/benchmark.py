"""Time models in turns, in every engine and at every batch size.

A latency alone says little, since machines differ and drift. What is reported is the ratio to the
first model, in the same engine and minutes, and how near it comes to the ratio of the MACs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decompose.inference.engines import Engine
from decompose.inference.timing import time_in_turns
from decompose.inference.tuning import tune
from decompose.layers.costs import count_macs, layer_macs, trace_shapes
from decompose.layers.discovery import find_layers
from decompose.layers.modules import DecomposedLayer
from decompose.utils.environment import machine
from decompose.utils.errors import DecomposeError
from decompose.utils.progress import track
from decompose.utils.tables import Table, format_count, format_threads


@dataclass(frozen=True)
class Latency:
    """The time of a model, or of one of its layers, for one batch.

    Attributes:
        name: the model's.
        engine: what ran it.
        batch_size: inputs in the batch.
        latency_ms: median over the rounds, in milliseconds.
        spread_ms: distance between the quartiles of the rounds, in milliseconds.
        macs: MACs for one input.
        layer: the layer's name; empty for the whole model.
    """

    name: str
    engine: str
    batch_size: int
    latency_ms: float
    spread_ms: float
    macs: int
    layer: str = ""


@dataclass(frozen=True)
class SpeedUp:
    """The speed-up of a model, or of one of its layers, over the first model's.

    Attributes:
        latency: its own.
        macs: how many times fewer MACs; NaN where they are not known.
        speed_up: how many times faster.
    """

    latency: Latency
    macs: float
    speed_up: float

    @property
    def efficiency(self) -> float:
        """Speed-up over the ratio of MACs."""
        return self.speed_up / self.macs


@dataclass(frozen=True)
class Benchmark:
    """Latencies of models that took turns; the first model is the baseline.

    Attributes:
        latencies: of all models, engine by engine, batch size by batch size.
        input_shape: of one input.
        num_rounds: turns that each model had.
        num_threads: on the CPU.
        machine: what computed, in words.
        versions: of the engines.
    """

    latencies: tuple[Latency, ...]
    input_shape: tuple[int, ...]
    num_rounds: int
    num_threads: int
    machine: str
    versions: Mapping[str, str]

    def ratios(self) -> list[SpeedUp]:
        """Speed-ups of whole models over the first."""
        return self._ratios([latency for latency in self.latencies if not latency.layer])

    def table(self) -> Table:
        """A row a model, engine and batch size. Efficiency: the speed-up over the MACs' ratio."""
        return self._table("model", self.ratios(), lambda latency: latency.name)

    def layer_table(self) -> Table:
        """A row a decomposed layer, engine and batch size; empty where layers were not timed."""
        ratios = self._ratios([latency for latency in self.latencies if latency.layer])
        rewritten = [ratio for ratio in ratios if ratio.latency.name != self.latencies[0].name]
        label = "{0.layer} of {0.name}".format
        return self._table("layer", rewritten, label)

    def to_dict(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Benchmark:
        """Read the result of ``to_dict``."""
        latencies = tuple(Latency(**latency) for latency in record["latencies"])
        return cls(
            **{**record, "latencies": latencies, "input_shape": tuple(record["input_shape"])}
        )

    def _ratios(self, latencies: Sequence[Latency]) -> list[SpeedUp]:
        firsts: dict[tuple[str, int, str], Latency] = {}
        found = []
        for latency in latencies:
            first = firsts.setdefault((latency.engine, latency.batch_size, latency.layer), latency)
            speed_up = first.latency_ms / latency.latency_ms
            # Of a quantised model the MACs may not be known.
            macs = first.macs / latency.macs if latency.macs else math.nan
            found.append(SpeedUp(latency, macs, speed_up))
        return found

    def _table(
        self, heading: str, ratios: Sequence[SpeedUp], label: Callable[[Latency], str]
    ) -> Table:
        rows = [
            (
                label(ratio.latency),
                ratio.latency.engine,
                str(ratio.latency.batch_size),
                format_count(ratio.latency.macs / 1e6) if ratio.latency.macs else "",
                f"{ratio.latency.latency_ms:,.1f}",
                f"{ratio.latency.spread_ms:,.1f}",
                "" if math.isnan(ratio.macs) else f"{ratio.macs:.2f}",
                f"{ratio.speed_up:.2f}",
                "" if math.isnan(ratio.macs) else f"{ratio.efficiency:.0%}",
            )
            for ratio in ratios
        ]
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return Table(
            f"Latency on {self.machine}, {format_threads(self.num_threads)}, inputs of "
            f"{'×'.join(map(str, self.input_shape))}; {versions}",
            (
                heading,
                "engine",
                "batch",
                "MMACs",
                "ms",
                "±",
                "MAC\nratio",
                "speed-up",
                "efficiency",
            ),
            rows,
        )


def time_side_by_side(
    models: Mapping[str, nn.Module],
    example: Tensor,
    engines: Mapping[str, Engine],
    *,
    batch_sizes: Sequence[int] = (1,),
    num_rounds: int = 7,
    num_threads: int | None = None,
    layers: bool = False,
    tuned: bool = False,
) -> Benchmark:
    """Time models in turns, on the same input.

    Args:
        models: by name, the one to compare with first; they are copied, not changed.
        example: one batch on the device to time on; only its first input is used.
        engines: engines to run them in, by name.
        batch_sizes: numbers of inputs at a time.
        num_rounds: turns that each has; a turn is a few calls, after a warm-up.
        num_threads: on the CPU; torch's own number by default.
        layers: time every decomposed layer beside the original's as well.
        tuned: let decomposed layers run in the form that is the fastest in each engine, at each batch
            size (``tuning``).

    Raises:
        DecomposeError: a model does not take the example, an engine cannot run it, or a number
            is not positive.
    """
    num_threads = torch.get_num_threads() if num_threads is None else num_threads
    if min(num_rounds, num_threads, *batch_sizes) < 1 or not len(example):
        raise DecomposeError("rounds, threads and batch sizes must be 1 or more")
    groups = [_Group("", models, example[:1], _macs_of(models, example))]
    if layers:
        groups += _layer_groups(models, example)
    todo = [(group, name, size) for group in groups for name in engines for size in batch_sizes]
    latencies: list[Latency] = []
    for group, name, size in todo:
        x = group.x.expand(size * len(group.x), *group.x.shape[1:]).contiguous()
        there = group.models
        if tuned:
            there = {key: _tuned(n, x, name, num_threads) for key, n in there.items()}
        calls = {key: engines[name].prepare(model, x, num_threads) for key, model in there.items()}
        what = f"timing {group.layer or 'models'} in {name}, batch {size}"
        timed = time_in_turns(
            calls, track(range(num_rounds), what), num_threads, device=example.device
        )
        latencies += [
            Latency(key, name, size, *timed[key], group.macs[key], group.layer) for key in calls
        ]
    return Benchmark(
        tuple(latencies),
        tuple(example.shape[1:]),
        num_rounds,
        num_threads,
        machine(example.device),
        {name: engine.version() for name, engine in engines.items()},
    )


def _tuned(model: nn.Module, x: Tensor, engine: str, num_threads: int) -> nn.Module:
    """The model tuned for a batch, where something in it can be."""
    if not any(isinstance(layer, DecomposedLayer) for layer in model.modules()):
        return model
    return tune(model, x, engine=engine, threads=num_threads).network


@dataclass(frozen=True)
class _Group:
    """Whole models, or one layer of each, that take turns."""

    layer: str
    models: Mapping[str, nn.Module]
    x: Tensor
    macs: Mapping[str, int]


def _macs_of(models: Mapping[str, nn.Module], example: Tensor) -> dict[str, int]:
    return {
        name: sum(count_macs(model, trace_shapes(model, example)).values())
        for name, model in models.items()
    }


def _layer_groups(models: Mapping[str, nn.Module], example: Tensor) -> list[_Group]:
    """A group for every layer that one of the models rewrites, on an input of its shape."""
    found = {name: find_layers(model) for name, model in models.items()}
    first = next(iter(found))
    shapes = trace_shapes(models[first], example)
    groups = []
    for layer in found[first]:
        there = {name: layers[layer] for name, layers in found.items() if layer in layers}
        if any(isinstance(module, DecomposedLayer) for module in there.values()):
            x = torch.randn(shapes[layer][0], dtype=example.dtype, device=example.device)
            macs = {name: layer_macs(module, tuple(x.shape)) for name, module in there.items()}
            groups.append(_Group(layer, there, x, macs))
    return groups
