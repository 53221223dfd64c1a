"""Choose the fastest form of every decomposed layer, timed in the engine that will run it.

Each layer is timed alone in every form that the engine distinguishes, and multiplied back into one dense
convolution. Then the model is timed as a whole: a layer that is alone in the cache may be faster there
than among others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from decompose.algebra import compose
from decompose.inference.engines import DEFAULT_ENGINE, get_engine
from decompose.inference.latency import Latencies, LayerVariant, Target, time_models
from decompose.layers.costs import trace_shapes
from decompose.layers.discovery import copied, find_decomposed
from decompose.layers.modules import DecomposedLayer
from decompose.models.conversion import set_forms_
from decompose.utils.batches import Example, batch_size, device_of
from decompose.utils.errors import DecomposeError
from decompose.utils.progress import track
from decompose.utils.tables import Table

_WORTHWHILE = 0.97
"""A form that takes more than this share of the present time is no better: it may be noise."""


@dataclass(frozen=True)
class LayerTuning:
    """The times of one layer's forms.

    Attributes:
        name: its full name.
        milliseconds: time of one batch, by form; ``dense`` is the original layer.
        before: the form that it had.
        after: the form that it has.
    """

    name: str
    milliseconds: Mapping[str, float]
    before: str
    after: str


@dataclass(frozen=True)
class Tuned:
    """A model whose layers run in their fastest forms.

    Attributes:
        network: a copy of the model; in its old forms where all changes together make it hardly faster.
        layers: the times of each decomposed layer's forms.
        before_ms: milliseconds of the model for one batch, before.
        after_ms: the same, after.
        place: engine, version, threads and machine.
    """

    network: nn.Module
    layers: tuple[LayerTuning, ...]
    before_ms: float
    after_ms: float
    place: str

    def table(self) -> Table:
        """A row a layer, a column a form."""
        forms = list(dict.fromkeys(form for layer in self.layers for form in layer.milliseconds))
        rows = [
            (
                layer.name,
                *(f"{ms:.2f}" if (ms := layer.milliseconds.get(f)) else "" for f in forms),
                layer.after,
            )
            for layer in self.layers
        ]
        total = f"model: {self.before_ms:.1f} ms, then {self.after_ms:.1f} ms"
        return Table(
            f"Forms; ms of each layer alone on {self.place}; {total}",
            ["layer", *forms, "form"],
            rows,
        )


def tune(
    small: nn.Module, example: Example, *, engine: str = DEFAULT_ENGINE, threads: int | None = None
) -> Tuned:
    """Choose the fastest form of every decomposed layer by timing them.

    Args:
        small: the model that ``apply`` made; left as it was.
        example: one batch, of the batch size to be fast for.
        engine: the engine to be fast in: a name of ``decompose.inference.engines.ENGINES``.
        threads: the engine's number of CPU threads; torch's own number by default.

    Returns:
        A copy of the model in its fastest forms, and the times in milliseconds.

    Raises:
        DecomposeError: nothing in the model is decomposed, or the engine cannot run it.

    Examples:
        >>> import torch
        >>> import decompose
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3)).eval()
        >>> example = torch.zeros(1, 4, 8, 8)
        >>> plan = decompose.plan(model, example, method="pw_dw", rank=2)
        >>> tuned = decompose.tune(decompose.apply(plan, model), example, threads=1)
        >>> sorted(tuned.layers[0].milliseconds)
        ['branches', 'branches-whole', 'dense', 'merged', 'merged-whole']
    """
    target = Target(get_engine(engine), threads or torch.get_num_threads(), device_of(example))
    layers = {
        name: layer for name, layer in find_decomposed(small).items() if layer.form != "dense"
    }
    if not layers:
        raise DecomposeError("the model has no decomposed layer whose form could be chosen")
    shapes = trace_shapes(small, example)
    latencies = Latencies(target)
    found = []
    for name in track([name for name in layers if name in shapes], "timing forms"):
        before = layers[name].form
        taken_ms = time_forms(layers[name], shapes[name], batch_size(example), latencies)
        found.append(LayerTuning(name, taken_ms, before, fastest(taken_ms, before)))
    model = copied(small)
    set_forms_(model, {layer.name: layer.after for layer in found})
    timed_ms = time_models({"before": small, "after": model}, example, target)
    if timed_ms["after"] <= _WORTHWHILE * timed_ms["before"]:
        return Tuned(model, tuple(found), timed_ms["before"], timed_ms["after"], str(target))
    kept = tuple(replace(layer, after=layer.before) for layer in found)
    before_ms = timed_ms["before"]
    return Tuned(copied(small), kept, before_ms, before_ms, str(target))


def time_forms(
    layer: DecomposedLayer,
    shapes: Sequence[tuple[int, ...]],
    batch_size: int,
    latencies: Latencies,
) -> dict[str, float]:
    """Milliseconds of a layer's calls for one batch, by form.

    Args:
        layer: in any form but ``dense``.
        shapes: of its input in each call, for one input of the model.
        batch_size: inputs of the model at a time.
        latencies: in the engine whose forms are timed, beside the layer's own and ``dense``.
    """
    forms = dict.fromkeys([layer.form, *latencies.target.engine.forms])
    variants = [*(LayerVariant(layer.choice, form) for form in forms), LayerVariant(None, "dense")]
    dense = compose(layer.expression).without_weights()
    taken_ms = latencies.measure_calls(dense, variants, shapes, batch_size)
    return {variant.form: ms for variant, ms in zip(variants, taken_ms, strict=True)}


def fastest(milliseconds: Mapping[str, float], present: str) -> str:
    """The fastest form, or the present one where it is hardly slower."""
    best = min(milliseconds, key=milliseconds.__getitem__)
    worthwhile = milliseconds[best] <= _WORTHWHILE * milliseconds[present]
    return best if worthwhile else present
