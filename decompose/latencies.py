"""What expressions take in a layer's place, on an engine: measured once each, and kept on disk.

A latency follows from shapes alone, so weights are made up, and a layer met again in another network
is not timed again. All expressions of a layer take turns with the layer as it is; what is kept are
times relative to its, in today's milliseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import platformdirs
import torch
from torch import nn

from decompose.algebra import Chain, Conv, Expression, map_leaves
from decompose.choices import Choice
from decompose.engines import Engine
from decompose.files import write_text
from decompose.modules import ORIGINALS, DecomposedLayer, to_module
from decompose.timing import machine, time_in_turns

_NUM_ROUNDS = 3
_MOST_AT_ONCE = 32  # prepared networks that are held in memory


@dataclass(frozen=True)
class Place:
    """Where networks are to be fast.

    Attributes:
        engine: what runs them.
        num_threads: on the CPU.
        device: where.
    """

    engine: Engine
    num_threads: int
    device: torch.device

    def __str__(self) -> str:
        engine = f"{self.engine.name} {self.engine.version()}"
        return f"{engine}, {self.num_threads} threads, {machine(self.device)}"


class Latencies:
    """Latencies in one place, on disk.

    Args:
        place: where they are measured.
        folder: where they are kept; the user's cache by default.
    """

    def __init__(self, place: Place, folder: Path | None = None) -> None:
        self.place = place
        folder = folder or Path(platformdirs.user_cache_dir("decompose")) / "latencies"
        # How a layer runs is this package's affair as well.
        key = _digest(f"decompose {version('decompose')}, {place}")
        self._path = folder / f"{key}.json"
        self._known = _read(self._path)

    def measure(
        self, dense: Conv, choices: Sequence[Choice | None], input_shape: tuple[int, ...]
    ) -> list[float]:
        """Milliseconds of one call of a layer as each choice rewrites it.

        Args:
            dense: the layer as it is, on the meta device: only its shape matters.
            choices: ``None`` leaves it as it is.
            input_shape: of the layer's input, batch included.
        """
        expressions = [dense if choice is None else choice.rewrite(dense) for choice in choices]
        keys = [_signature(expression, input_shape) for expression in expressions]
        unknown = {
            key: (choice, expression)
            for key, choice, expression in zip(keys, choices, expressions, strict=True)
            if key not in self._known
        }
        todo = list(unknown.items())
        for start in range(0, len(todo), _MOST_AT_ONCE):
            self._time(dense, dict(todo[start : start + _MOST_AT_ONCE]), input_shape)
        return [self._known[key] for key in keys]

    def _time(
        self,
        dense: Conv,
        unknown: Mapping[str, tuple[Choice | None, Expression]],
        input_shape: tuple[int, ...],
    ) -> None:
        x = torch.randn(input_shape, dtype=dense.weight.dtype, device=self.place.device)
        reference = _signature(dense, input_shape)
        calls = {
            key: self.place.engine.prepare(
                _layer(dense, choice, expression), x, self.place.num_threads
            )
            for key, (choice, expression) in {reference: (None, dense), **unknown}.items()
        }
        timed = time_in_turns(calls, range(_NUM_ROUNDS), self.place.num_threads, calls_a_round=1)
        base = self._known.setdefault(reference, timed[reference].median_ms)
        for key in unknown.keys() - {reference}:
            self._known[key] = base * timed[key].median_ms / timed[reference].median_ms
        self._path.parent.mkdir(parents=True, exist_ok=True)
        record = {"place": str(self.place), "milliseconds": self._known}
        write_text(self._path, json.dumps(record, indent=0))


def _read(path: Path) -> dict[str, float]:
    """What was measured before; nothing where the file is not there, or damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["milliseconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _layer(dense: Conv, choice: Choice | None, expression: Expression) -> nn.Module:
    """The layer that a choice makes, its weights made up."""
    original = to_module(_filled(dense))
    if choice is None:
        return original
    assert isinstance(original, ORIGINALS)
    return DecomposedLayer(original, map_leaves(_filled, expression), choice)


def _filled(conv: Conv) -> Conv:
    """A convolution with weights of a size that keeps the scale of what passes."""
    scale = conv.weight[0].numel() ** -0.5
    weight = scale * torch.randn(conv.weight.shape, dtype=conv.weight.dtype)
    bias = None if conv.bias is None else torch.zeros(conv.out_channels, dtype=weight.dtype)
    return replace(conv, weight=weight, bias=bias)


def _signature(expression: Expression, input_shape: tuple[int, ...]) -> str:
    """What a latency depends on, in few characters."""
    return _digest(f"{input_shape} {_outline(expression)}")


def _outline(expression: Expression) -> str:
    if isinstance(expression, Conv):
        weight = expression.weight
        biased = expression.bias is not None
        return f"{tuple(weight.shape)} {weight.dtype} {expression.groups} {biased} {expression.geometry}"
    sign = " > " if isinstance(expression, Chain) else " + "
    return f"({sign.join(map(_outline, expression.parts))})"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
