"""Which objective predicts a plan's error: the rank correlation over random plans.

A plan's loss is the sum over its layers of -log(1 - e). What e is makes the objectives differ: the
relative error of the layer's kernel, or the error of the network's output that ``error_prediction`` says
from synthetic statistics, without and with the corrections that ``sensitivity`` measures. Each random plan
rewrites every layer, at costs that scatter about one share, so that plans of all sizes are compared.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from torch import Tensor, nn

import decompose
from decompose.algebra import Deviation, weight_deviation
from decompose.compression.effort import effort_of
from decompose.compression.search.candidates import COMBINATIONS, Candidate, find_candidates, loss
from decompose.compression.search.error_prediction import OutputError
from decompose.compression.search.quick_truncations import QuickTruncations
from decompose.compression.search.sensitivity import measuring_sensitivity
from decompose.compression.statistics import gather
from decompose.layers.costs import expression_macs
from decompose.layers.forward import evaluating
from decompose.layers.modules import to_conv
from decompose.layers.survey import survey
from decompose.methods.combinations import parse_combination
from decompose.models.plans import Plan
from decompose.utils.progress import track

NUM_IMAGES = 4
SCATTER = 0.12


def correlate(network: nn.Module, images: Tensor, num_plans: int) -> dict[str, Any]:
    """Predicted and measured errors of random plans.

    Returns:
        ``losses`` by objective and ``measured``, a number a plan, and ``spearman`` by objective.
    """
    inputs = decompose.synthetic_inputs(images[:1] * 0, network, num=6)
    known = survey(network, images)
    statistics = gather(network, inputs, known.layers)
    shapes = known.shapes
    convs = {name: to_conv(module) for name, module in known.layers.items()}
    combinations = [parse_combination(name) for name in COMBINATIONS]
    scored: dict[str, list[Candidate]] = {}
    corrections: dict[str, dict[str, float]] = {}
    with measuring_sensitivity(known, inputs, effort_of("normal"), repaired=False) as sensitivity:
        for name, conv in track(convs.items(), "scoring candidates", total=len(convs)):
            truncations = QuickTruncations(conv)
            cost = partial(expression_macs, input_shape=shapes[name][0])
            error = OutputError(conv, statistics.layers[name])
            scored[name] = find_candidates(truncations, combinations, cost, error)
            corrections[name] = sensitivity.corrections(name, scored[name], truncations)
    images = images[:NUM_IMAGES]
    with evaluating(network):
        expected = network(images)
    random = np.random.default_rng(0)
    losses: dict[str, list[float]] = {"weights": [], "predicted": [], "predicted, with gains": []}
    measured = []
    for _ in track(range(num_plans), "random plans"):
        share = random.uniform(0.3, 0.85)
        picked = {name: _pick(found, share, random) for name, found in scored.items()}
        chosen = {name: o.choice for name, o in picked.items() if o.choice is not None}
        small = decompose.apply(Plan(chosen), network)
        with evaluating(small):
            measured.append(Deviation.between(small(images), expected).relative)
        rewritten = {
            name: QuickTruncations(convs[name]).expression(choice)
            for name, choice in chosen.items()
        }
        kernels = [weight_deviation(e, convs[name]).relative for name, e in rewritten.items()]
        losses["weights"].append(sum(map(loss, kernels)))
        losses["predicted"].append(sum(loss(o.error) for o in picked.values()))
        scaled = [corrections[name].get(o.label, 1.0) * o.error for name, o in picked.items()]
        losses["predicted, with gains"].append(sum(map(loss, scaled)))
    spearman = {name: _spearman(values, measured) for name, values in losses.items()}
    return {"losses": losses, "measured": measured, "spearman": spearman}


def _pick(found: list[Candidate], share: float, random: np.random.Generator) -> Candidate:
    """A random candidate among those whose cost is near a share of the layer's."""
    dense = found[0].cost
    target = np.clip(share + SCATTER * random.standard_normal(), 0.15, 0.95)
    nearest = sorted(found[1:], key=lambda candidate: abs(candidate.cost / dense - target))
    return nearest[random.integers(min(6, len(nearest)))]


def _spearman(a: list[float], b: list[float]) -> float:
    result: Any = spearmanr(a, b)
    return float(result.statistic)
