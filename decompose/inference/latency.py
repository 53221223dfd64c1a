"""Measure the latency of a layer's variants in an engine, once each, and keep it on disk.

A latency follows from shapes alone, so weights are made up, and a layer met again in another model
is not timed again. All variants of a layer take turns with the layer as it is; what is kept are
times relative to its, in today's milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import NamedTuple

import platformdirs
import torch
from torch import nn

from decompose.algebra import Chain, Conv, Expression, map_leaves
from decompose.inference.engines import Engine
from decompose.inference.timing import time_in_turns
from decompose.layers.execution_forms import DEFAULT_FORM, get_form
from decompose.layers.modules import DECOMPOSABLE, DecomposedLayer, to_module
from decompose.methods.choices import Choice
from decompose.utils.batches import Example
from decompose.utils.environment import VERSION, machine
from decompose.utils.errors import DecomposeError, reason
from decompose.utils.files import write_text
from decompose.utils.progress import track
from decompose.utils.tables import format_threads

_NUM_ROUNDS = 3
_MODEL_ROUNDS = 9
_MOST_AT_ONCE = 32  # prepared models that are held in memory


@dataclass(frozen=True)
class Target:
    """The engine, threads and device that a model is to be fast on.

    Attributes:
        engine: the engine that runs them.
        num_threads: number of CPU threads.
        device: the device.
    """

    engine: Engine
    num_threads: int
    device: torch.device

    def __str__(self) -> str:
        engine = f"{self.engine.name} {self.engine.version()}"
        return f"{engine}, {format_threads(self.num_threads)}, {machine(self.device)}"


class LayerVariant(NamedTuple):
    """A layer rewritten by a choice, in a form; without a choice the original layer."""

    choice: Choice | None
    form: str = DEFAULT_FORM

    def of(self, dense: Conv) -> Expression:
        """The expression that replaces the layer."""
        made = dense if self.choice is None else self.choice.rewrite(dense)
        return get_form(self.form).rewrite(made)


class Latencies:
    """Latencies on one target, kept on disk.

    Args:
        target: where they are measured.
        folder: where they are kept; the user's cache by default.
    """

    def __init__(self, target: Target, folder: Path | None = None) -> None:
        self.target = target
        folder = folder or Path(platformdirs.user_cache_dir("decompose")) / "latencies"
        # How a layer runs is this package's affair as well.
        key = _digest(f"decompose {VERSION}, {target}")
        self._path = folder / f"{key}.json"
        self._known = _read(self._path)
        self._warned = False

    def measure(
        self, dense: Conv, variants: Sequence[LayerVariant], input_shape: tuple[int, ...]
    ) -> list[float]:
        """Milliseconds of one call of a layer in each variant.

        Args:
            dense: the layer as it is, on the meta device: only its shape matters.
            variants: of it.
            input_shape: of the layer's input, batch included.
        """
        keys = [_signature(variant, dense, input_shape) for variant in variants]
        unknown = {
            key: variant
            for key, variant in zip(keys, variants, strict=True)
            if key not in self._known
        }
        todo = list(unknown.items())
        for start in range(0, len(todo), _MOST_AT_ONCE):
            self._time(dense, dict(todo[start : start + _MOST_AT_ONCE]), input_shape)
        return [self._known[key] for key in keys]

    def measure_calls(
        self,
        dense: Conv,
        variants: Sequence[LayerVariant],
        shapes: Sequence[tuple[int, ...]],
        batch_size: int,
    ) -> list[float]:
        """Milliseconds of all calls of a layer for one batch, in each variant.

        Args:
            dense: as for ``measure``.
            variants: of it.
            shapes: of its input in each call, for one input of the model.
            batch_size: inputs of the model at a time.
        """
        totals_ms = [0.0] * len(variants)
        for first, *others in shapes:
            times_ms = self.measure(dense, variants, (batch_size * first, *others))
            totals_ms = [total + ms for total, ms in zip(totals_ms, times_ms, strict=True)]
        return totals_ms

    def _time(
        self,
        dense: Conv,
        unknown: Mapping[str, LayerVariant],
        input_shape: tuple[int, ...],
    ) -> None:
        x = torch.randn(input_shape, dtype=dense.weight.dtype, device=self.target.device)
        as_it_is = LayerVariant(None)
        reference = _signature(as_it_is, dense, input_shape)
        calls = {
            key: self.target.engine.prepare(_layer(dense, variant), x, self.target.num_threads)
            for key, variant in {reference: as_it_is, **unknown}.items()
        }
        timed = time_in_turns(
            calls,
            range(_NUM_ROUNDS),
            self.target.num_threads,
            calls_a_round=1,
            device=self.target.device,
        )
        base = self._known.setdefault(reference, timed[reference].median_ms)
        for key in unknown.keys() - {reference}:
            self._known[key] = base * timed[key].median_ms / timed[reference].median_ms
        record = {"place": str(self.target), "milliseconds": self._known}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, json.dumps(record, indent=0))
        except (OSError, DecomposeError) as error:
            if not self._warned:
                warnings.warn(f"latencies are not kept: {reason(error)}", stacklevel=2)
            self._warned = True


def time_models(
    models: Mapping[str, nn.Module], example: Example, target: Target
) -> dict[str, float]:
    """Time models in turns, in milliseconds.

    Args:
        models: by name.
        example: one batch.
        target: where they run.
    """
    calls = {
        name: target.engine.prepare(model, example, target.num_threads)
        for name, model in models.items()
    }
    rounds = track(range(_MODEL_ROUNDS), "timing the model")
    timed = time_in_turns(calls, rounds, target.num_threads, device=target.device)
    return {name: time.median_ms for name, time in timed.items()}


def _read(path: Path) -> dict[str, float]:
    """Read earlier measurements; none where the file is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["milliseconds"].items()
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
    return {key: ms for key, ms in found if type(ms) in (int, float) and 0 < ms < inf}


def _layer(dense: Conv, variant: LayerVariant) -> nn.Module:
    """The layer of a variant, with random weights."""
    original = to_module(_filled(dense))
    if variant.choice is None:
        return original
    assert isinstance(original, DECOMPOSABLE)
    made = map_leaves(_filled, variant.choice.rewrite(dense))
    layer = DecomposedLayer(original, made, variant.choice)
    layer.take_form(variant.form)
    return layer


def _filled(conv: Conv) -> Conv:
    """A convolution with random weights that keep the scale of activations."""
    scale = conv.weight[0].numel() ** -0.5
    weight = scale * torch.randn(conv.weight.shape, dtype=conv.weight.dtype)
    bias = None if conv.bias is None else torch.zeros(conv.out_channels, dtype=weight.dtype)
    return replace(conv, weight=weight, bias=bias)


def _signature(variant: LayerVariant, dense: Conv, input_shape: tuple[int, ...]) -> str:
    """A short key of all that a latency depends on."""
    expression = variant.of(dense)
    # A single convolution is never cut.
    as_whole = not (get_form(variant.form).in_pieces or isinstance(expression, Conv))
    return _digest(f"{input_shape} {_outline(expression)}{' as a whole' if as_whole else ''}")


def _outline(expression: Expression) -> str:
    if isinstance(expression, Conv):
        weight = expression.weight
        biased = expression.bias is not None
        return f"{tuple(weight.shape)} {weight.dtype} {expression.groups} {biased} {expression.geometry}"
    sign = " > " if isinstance(expression, Chain) else " + "
    return f"({sign.join(map(_outline, expression.parts))})"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
