"""The fastest form of every decomposed layer, by measurement in the engine where it is to run.

Each layer is timed alone in every form that the engine tells apart, and multiplied back into one dense
convolution, where that is faster than all of them. Then the model is timed as a whole: a layer
that is alone in the cache may be faster there than among others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from decompose.algebra import compose
from decompose.inference.engines import DEFAULT_ENGINE, get_engine
from decompose.inference.latency import Latencies, LayerVariant, Target, time_networks
from decompose.layers.costs import trace_shapes
from decompose.layers.discovery import copied, find_decomposed
from decompose.layers.modules import DecomposedLayer
from decompose.models.conversion import set_forms_
from decompose.utils.batches import Example, batch_size, device_of
from decompose.utils.errors import DecomposeError
from decompose.utils.progress import track
from decompose.utils.tables import Table

_WORTHWHILE = 0.97
"""What takes more than this share of the present time is not worth a change: it may be noise."""


@dataclass(frozen=True)
class LayerTuning:
    """What was found for one layer.

    Attributes:
        name: its full name.
        milliseconds: of one batch, by form; ``dense`` is the layer that it was made of.
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
        network: a copy; as it was where all changes together make it hardly faster.
        layers: what was found for each decomposed layer.
        before_ms: milliseconds of the model for one batch, as it was.
        after_ms: as it is now.
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
    """Let every decomposed layer run in its fastest form.

    Args:
        small: what ``apply`` made; left as it was.
        example: one batch (``calls``), as large as it is to be fast for.
        engine: where it is to be fast: a name of ``decompose.inference.engines.ENGINES``.
        threads: that the engine has on the CPU; torch's own number by default.

    Raises:
        DecomposeError: nothing in the model is decomposed, or the engine cannot run it.
    """
    place = Target(get_engine(engine), threads or torch.get_num_threads(), device_of(example))
    layers = {
        name: layer for name, layer in find_decomposed(small).items() if layer.form != "dense"
    }
    if not layers:
        raise DecomposeError("the model has no decomposed layer whose form could be chosen")
    shapes = trace_shapes(small, example)
    latencies = Latencies(place)
    found = []
    for name in track([name for name in layers if name in shapes], "timing forms"):
        before = layers[name].form
        taken_ms = time_forms(layers[name], shapes[name], batch_size(example), latencies)
        found.append(LayerTuning(name, taken_ms, before, fastest(taken_ms, before)))
    model = copied(small)
    set_forms_(model, {layer.name: layer.after for layer in found})
    timed_ms = time_networks({"before": small, "after": model}, example, place)
    if timed_ms["after"] <= _WORTHWHILE * timed_ms["before"]:
        return Tuned(model, tuple(found), timed_ms["before"], timed_ms["after"], str(place))
    kept = tuple(replace(layer, after=layer.before) for layer in found)
    before_ms = timed_ms["before"]
    return Tuned(copied(small), kept, before_ms, before_ms, str(place))


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
    forms = dict.fromkeys([layer.form, *latencies.place.engine.forms])
    variants = [*(LayerVariant(layer.choice, form) for form in forms), LayerVariant(None, "dense")]
    dense = compose(layer.expression).without_weights()
    taken_ms = latencies.measure_calls(dense, variants, shapes, batch_size)
    return {variant.form: ms for variant, ms in zip(variants, taken_ms, strict=True)}


def fastest(milliseconds: Mapping[str, float], present: str) -> str:
    """The form that takes the least, or the present one where that hardly takes more."""
    best = min(milliseconds, key=milliseconds.__getitem__)
    worthwhile = milliseconds[best] <= _WORTHWHILE * milliseconds[present]
    return best if worthwhile else present
