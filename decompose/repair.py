"""Repair: refit what truncation left, so that each layer gives what the original's gave.

Layer after layer, in the order in which they run, the last factors of a decomposed layer are
regressed on the *original* layer's output, given the input that the layer has now, after all
layers before it were truncated and repaired: the asymmetric reconstruction of Zhang et al. 2016
(arXiv 1505.06798, section 3.3), without its non-linear part. Errors of earlier layers are so made
good by later ones, and activations that had shrunk grow back.

With few inputs a regression overfits. So it is pulled towards the truncated factor by a ridge
(``regression``), and how hard, or whether only each channel's scale or only its bias is refitted,
is decided for each layer on inputs held out of the fit. Where nothing makes those better, the
layer is left as it was.

Only sums are kept, so memory does not grow with the number of inputs. Each layer takes a pass of
both networks up to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add

import torch
from torch import Tensor, nn

from decompose.algebra import (
    bias_of,
    widened,
)
from decompose.errors import DecomposeError
from decompose.inputs import Images, Inputs
from decompose.layers import calls_until, evaluating, find_layers, trace_shapes
from decompose.modules import DecomposedLayer, to_module
from decompose.progress import track
from decompose.refitting import prior_of, refitted, rows_of
from decompose.regression import (
    Fit,
    Rows,
    ridge_fit,
    scale_fit,
    shift_fit,
    squared_error,
)
from decompose.tables import Table

RIDGES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
"""Pulls towards the truncated factor that are tried, beside infinity."""

_FOLDS = 4

Calls = Callable[[Tensor], list[tuple[Tensor, Tensor]]]
"""From an input of the network to a layer's inputs and outputs in each of its calls."""


@dataclass(frozen=True)
class LayerRepair:
    """What was done to one layer.

    Attributes:
        name: its full name.
        how: ``ridge 0.3``, ``scale``, ``bias``, or ``left`` where nothing made it better.
        before: relative squared error of its output on inputs held out, given the repaired layers
            before it.
        after: the same once it is repaired, by fits that had not seen those inputs.
    """

    name: str
    how: str
    before: float
    after: float


def repair_table(repairs: Sequence[LayerRepair]) -> Table:
    """A row a layer."""
    rows = [(r.name, r.how, f"{r.before:.5f}", f"{r.after:.5f}") for r in repairs]
    return Table(
        "Repair; error of each layer's output on inputs held out, layers before it repaired",
        ["layer", "refit", "before", "after"],
        rows,
    )


def repair_(small: nn.Module, model: nn.Module, images: Images) -> list[LayerRepair]:
    """Refit the last factors of every decomposed layer, in place.

    Args:
        small: what ``apply`` made of the model.
        model: the original; left as it was.
        images: unlabelled inputs ``(batch, ...)``, or an iterable of such, or of tuples that begin
            with such; at least two.

    Returns:
        What was done to each layer, in the order in which they run.

    Raises:
        DecomposeError: there are fewer than two inputs, or ``small`` was not made from ``model``.
    """
    inputs = Inputs(images, model)
    layers, originals = find_layers(small), find_layers(model)
    calls = {name: len(seen) for name, seen in trace_shapes(model, next(iter(inputs))).items()}
    todo = [name for name in calls if isinstance(layers.get(name), DecomposedLayer)]
    repairs = []
    with evaluating(model, small):
        for name in track(todo, "repairing"):
            layer = layers[name]
            assert isinstance(layer, DecomposedLayer)
            before = partial(calls_until, small, layer, calls[name])
            reference = partial(calls_until, model, originals[name], calls[name])
            repairs.append(_repair_layer(name, layer, before, reference, inputs))
    return repairs


def _repair_layer(
    name: str, layer: DecomposedLayer, calls: Calls, reference: Calls, inputs: Iterable[Tensor]
) -> LayerRepair:
    expression = widened(layer.expression)
    folds: list[Rows | None] = [None] * _FOLDS
    count = 0
    for count, x in enumerate(inputs, start=1):
        for (seen, given), (_, wanted) in zip(calls(x), reference(x), strict=True):
            rows = rows_of(expression, seen, given, wanted)
            held = folds[count % _FOLDS]
            folds[count % _FOLDS] = rows if held is None else held + rows
    if count < 2:
        raise DecomposeError("repair needs two inputs at least: one to fit, one to check on")
    held = [fold for fold in folds if fold is not None]
    how, fit, before, after = _best_fit(held, prior_of(expression), bias_of(expression))
    if fit is not None:
        layer.body.load_state_dict(to_module(refitted(expression, fit)).state_dict())
    return LayerRepair(name, how, before, after)


def _best_fit(
    folds: list[Rows], prior: Tensor, bias: Tensor | None
) -> tuple[str, Fit | None, float, float]:
    """The way of fitting that is best on rows held out, and its fit to all rows."""
    with_bias = bias is not None
    groups, outputs = prior.shape[:2]
    old = torch.zeros(groups, outputs) if bias is None else bias.view(groups, outputs)
    untouched = Fit(prior, old.double().cpu())
    everything = reduce(add, folds)
    rests = [everything - held for held in folds]

    def held_out(fit: Callable[..., Fit]) -> float:
        fits = (fit(rest, prior, with_bias=with_bias) for rest in rests)
        return sum(squared_error(held, f) for held, f in zip(folds, fits, strict=True))

    energy = float(everything.yy.sum())
    before = squared_error(everything, untouched)
    ways: dict[str, Callable[..., Fit]] = {"bias": shift_fit, "scale": scale_fit}
    errors = {name: held_out(way) for name, way in ways.items() if with_bias or name != "bias"}
    if prior.shape[2] > 1:
        # From the strongest pull on: the error falls, and rises for good once a fit overfits.
        tried: list[float] = []
        for ridge in RIDGES:
            way = partial(ridge_fit, ridge=ridge)
            tried.append(held_out(way))
            ways[f"ridge {ridge:g}"], errors[f"ridge {ridge:g}"] = way, tried[-1]
            if len(tried) > 2 and tried[-1] > tried[-2] > tried[-3]:
                break
    best = min(errors, key=errors.__getitem__)
    if energy == 0 or errors[best] >= before:
        relative = before / energy if energy else 0.0
        return "left", None, relative, relative
    fit = ways[best](everything, prior, with_bias=with_bias)
    return best, fit, before / energy, errors[best] / energy
