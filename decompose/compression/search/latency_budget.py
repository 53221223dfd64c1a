"""Make plans for a budget of time, in one engine.

The candidates of a layer are timed there alone (``inference.latency``). With T the original's
time, t_l that of its layer l alone and t_l(candidate) that of a candidate, a plan is predicted to take

    R + s sum_l t_l(candidate),    R = max(0, T - sum_l t_l),    s = min(1, T / sum_l t_l):

the time outside the layers stays, and where alone they take longer than together, so do the
candidates. Chosen layers run in the form that is the fastest there (``tuning``). The plan is then made and
timed, and where it misses the budget, made again for a budget smaller by the excess.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from math import ceil

import torch
from torch import nn

from decompose.algebra import Conv
from decompose.compression.search.allocation import mixture
from decompose.compression.search.candidates import Candidate
from decompose.inference.latency import Latencies, LayerVariant, Target, time_models
from decompose.inference.tuning import fastest, time_forms
from decompose.layers.costs import Shapes
from decompose.layers.discovery import find_decomposed
from decompose.layers.execution_forms import DEFAULT_FORM
from decompose.layers.modules import DecomposedLayer
from decompose.layers.survey import Survey
from decompose.methods import METHODS, get_method
from decompose.methods.choices import FACTORS, Choice
from decompose.methods.low_rank import LowRankMethod
from decompose.models.conversion import set_forms_, substitute
from decompose.models.plans import LatencyReport, Plan
from decompose.utils.batches import batch_size
from decompose.utils.errors import BudgetError
from decompose.utils.progress import track

_MOST_OF_A_FAMILY = 6
"""Options of the same methods that are timed, from the dearest to the cheapest."""

_NUM_TRIES = 4


def plan_for_latency(
    known: Survey,
    scored: Mapping[str, Sequence[Candidate]],
    share: float,
    target: Target,
    block: int,
) -> Plan:
    """Make the plan of least error within a share of the original's time.

    Args:
        known: the survey of the original, on one batch as large as it is to be fast for.
        scored: the candidates of every layer that may be decomposed.
        share: of the original's latency, in (0, 1].
        target: the engine, its threads and device.
        block: channels that it computes together; ranks of at least a block become whole blocks.

    Raises:
        BudgetError: no plan is fast enough.
        DecomposeError: the engine cannot run the model.
    """
    model, example, shapes = known.model, known.example, known.shapes
    # Layers are timed one by one.
    scored = {name: [o for o in found if not o.covers] for name, found in scored.items()}
    num_inputs = batch_size(example)
    original_ms = time_models({"original": model}, example, target)["original"]
    latencies = Latencies(target)
    priced = _price(known, scored, num_inputs, latencies, block)
    dense_ms = {name: _dense_cost(found) / 1e3 for name, found in priced.items()}
    alone_ms = sum(dense_ms.values())
    rest_ms, scale = max(0.0, original_ms - alone_ms), min(1.0, original_ms / alone_ms)
    allowed_ms = (share * original_ms - rest_ms) / scale
    least_ms = sum(min(candidate.cost for candidate in found) for found in priced.values()) / 1e3
    plan = Plan()
    for _ in range(_NUM_TRIES):
        if allowed_ms < least_ms:
            least = (rest_ms + scale * least_ms) / original_ms
            raise _unreachable(share, original_ms, least, plan.pace)
        plan = mixture(priced, known.dense, 1e3 * allowed_ms, "µs")
        taken_ms = sum(
            plan.notes[name].cost / 1e3 if name in plan.notes else ms
            for name, ms in dense_ms.items()
        )
        predicted = (rest_ms + scale * taken_ms) / original_ms
        small = substitute(plan, model, known.layers)
        plan = replace(
            plan, forms=_fastest_forms(small, plan.layers, shapes, num_inputs, latencies)
        )
        set_forms_(small, plan.forms)
        timed = time_models({"original": model, "small": small}, example, target)
        now_ms = timed["original"]
        pace = LatencyReport(str(target), num_inputs, now_ms, predicted * now_ms, timed["small"])
        plan = replace(plan, pace=pace)
        missed = timed["small"] / now_ms - share
        if missed <= 0 or not plan.layers:
            break
        allowed_ms = taken_ms - missed * original_ms / scale
    return plan


def _unreachable(
    share: float, original_ms: float, least: float, pace: LatencyReport | None
) -> BudgetError:
    """The error that no plan takes so small a share of the time, with the least share."""
    last = "" if pace is None else f"; the last plan took {pace.measured_ms / pace.original_ms:.0%}"
    return BudgetError(
        f"no plan takes {share:.0%} of the original's {original_ms:.1f} ms: with the fastest candidates "
        f"of all layers it is {least:.0%}{last}"
    )


def _fastest_forms(
    small: nn.Module,
    chosen: Container[str],
    shapes: Shapes,
    batch_size: int,
    latencies: Latencies,
) -> dict[str, str]:
    """The forms of the decomposed layers that are faster than the default one."""
    forms = {
        name: fastest(time_forms(layer, shapes[name], batch_size, latencies), layer.form)
        for name, layer in find_decomposed(small).items()
        if name in chosen
    }
    return {name: form for name, form in forms.items() if form not in (DEFAULT_FORM, "dense")}


def _dense_cost(found: Sequence[Candidate]) -> float:
    return next(candidate.cost for candidate in found if candidate.choice is None)


def _price(
    known: Survey,
    scored: Mapping[str, Sequence[Candidate]],
    batch_size: int,
    latencies: Latencies,
    block: int,
) -> dict[str, list[Candidate]]:
    """Time a few candidates of every layer; their costs in microseconds for one batch."""
    priced = {}
    for name in track(list(known.convs), "timing candidates"):
        conv = known.convs[name].without_weights()
        share = latencies.target.engine.fewer_macs
        hopeful = [o for o in scored[name] if not _hopeless(o, scored[name], share)]
        found = [_aligned(candidate, conv, block) for candidate in _thinned(hopeful)]
        layer = known.decomposed.get(name)
        variants = [_variant(candidate.choice, layer, conv) for candidate in found]
        totals_ms = latencies.measure_calls(conv, variants, known.shapes[name], batch_size)
        priced[name] = [
            replace(candidate, cost=round(1e3 * total))
            for candidate, total in zip(found, totals_ms, strict=True)
        ]
    return priced


def _variant(choice: Choice | None, layer: DecomposedLayer | None, conv: Conv) -> LayerVariant:
    """The variant of a choice; without one, the layer as it is."""
    if layer is None or not (choice is None or choice.method == FACTORS):
        return LayerVariant(choice)
    if choice is None:
        return LayerVariant(layer.choice, layer.form)
    return LayerVariant(layer.choice.followed_by(choice, conv))


def _hopeless(candidate: Candidate, others: Sequence[Candidate], share: float) -> bool:
    """Whether another candidate loses no more with so few MACs that it is certainly faster."""
    return candidate.choice is not None and any(
        o.cost <= share * candidate.cost and o.error <= candidate.error for o in others
    )


def _aligned(candidate: Candidate, conv: Conv, block: int) -> Candidate:
    """Raise the rank of a candidate to whole blocks of channels, which lose no more."""
    choice = candidate.choice
    if choice is None or choice.then or choice.rank < block or choice.method not in METHODS:
        return candidate
    method = get_method(choice.method)
    if not isinstance(method, LowRankMethod):
        return candidate
    rank = min(block * ceil(choice.rank / block), method.max_rank(conv))
    return replace(candidate, choice=replace(choice, rank=rank))


def _thinned(found: Sequence[Candidate]) -> list[Candidate]:
    """Keep a few candidates of each family, evenly from the dearest to the cheapest."""
    families: dict[str, list[Candidate]] = {}
    for candidate in found:
        families.setdefault(candidate.label, []).append(candidate)
    kept = []
    for family in families.values():
        family.sort(key=lambda candidate: -candidate.cost)
        most = min(len(family), _MOST_OF_A_FAMILY)
        indices = torch.linspace(0, len(family) - 1, most).round().long().tolist()
        kept += [family[index] for index in indices]
    return kept
