"""From a network and a wish to a plan."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from decompose import algebra
from decompose.algebra import Conv
from decompose.budget import Candidate, allocate
from decompose.candidates import RECIPES, Option, loss, undominated
from decompose.choices import Choice
from decompose.errors import DecomposeError
from decompose.inputs import Images
from decompose.layers import count_macs, count_params, find_originals, trace_shapes
from decompose.methods import DEFAULT_METHOD, Method
from decompose.modules import to_conv
from decompose.patterns import last_match, matches, require_match
from decompose.plans import Note, Plan
from decompose.statistics import Statistics
from decompose.weighing import Cost, macs_of_calls, reason_to_skip, weigh
from decompose.wishes import parse_recipe, rank_rule


def plan(
    model: nn.Module,
    example: Tensor,
    *,
    method: str | None = None,
    rank: int | Mapping[str, int] | None = None,
    energy: float | None = None,
    ratio: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    methods: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    calibrate: Images | Statistics | None = None,
) -> Plan:
    """Choose how to rewrite the layers of a network.

    Either one method with one rule for its rank (``rank``, ``energy`` or ``ratio``), as the papers
    do, from the weights alone; or a budget (``macs`` or ``params``) under which each layer gets the
    method and rank that together change the network's output the least, from its weights and
    from what its layers do to inputs: unlabelled ones of yours, or else synthetic ones. A layer that
    would not get cheaper stays as it is, unless ``rank`` names it in full.

    Args:
        model: any module; left as it was.
        example: one input tensor with a batch axis; its sizes tell what a layer costs.
        method: a method's name (``decompose.methods.METHODS``), or several that apply one inside
            the other, outermost first (``spatial+pw_dw``).
        rank: one for all layers, or one for each name or pattern (``{"conv4_*": 5, "conv4_1": 6}``:
            the last that fits counts, other layers stay as they are). It must be within the bound
            of some layer; the others take their own bound. Of a combination it is the inner rank.
        energy: share of the energy that each layer keeps, in (0, 1].
        ratio: how many times fewer weights each layer gets, by its outermost method.
        macs: MACs to keep of the whole network's, in (0, 1].
        params: parameters to keep of the whole network's, in (0, 1].
        methods: what the budget may choose from; ``decompose.candidates.RECIPES`` by default.
        skip: names of layers, or of modules that hold them, or patterns, to leave as they are.
        calibrate: for a budget: unlabelled inputs, a tensor or an iterable of batches, that the
            plan will also be repaired on; or the statistics that ``measure`` took from such.
            Without it the plan supposes no repair.

    Returns:
        The plan; its ``dense`` part says why each other layer was left.

    Raises:
        DecomposeError: the wish is incomplete or contradicts itself, no plan can meet the budget
            (the message says what the least is), a rank is out of bounds, a name fits no layer,
            weights are not finite, or a method does not exist.
    """
    skip = (skip,) if isinstance(skip, str) else skip
    _require_one_wish(method, rank, energy, ratio, macs, params, methods, calibrate)
    recipe = parse_recipe(method or DEFAULT_METHOD)
    modules = find_originals(model)
    if not modules:
        raise DecomposeError("the network has no layer to decompose")
    convs = {name: to_conv(module) for name, module in modules.items()}
    ranks = _ranks_by_pattern(rank)
    for pattern in (*skip, *ranks):
        require_match(convs, pattern)
    shapes = trace_shapes(model, example)
    dense = {
        name: reason
        for name, module in modules.items()
        if (reason := reason_to_skip(name, module, skip, reached=name in shapes))
    }
    open_convs = {name: conv for name, conv in convs.items() if name not in dense}
    macs_of = {name: partial(macs_of_calls, shapes[name]) for name in open_convs}
    if macs is None and params is None:
        for pattern, number in ranks.items():
            _require_within_bound(recipe[-1], convs, pattern, number)
        rule = rank_rule(recipe, ranks, partial(last_match, ranks), energy, ratio)
        return _uniform(rule, open_convs, macs_of, dense, named=ranks)
    if params is not None:
        costs: Mapping[str, Cost] = dict.fromkeys(open_convs, algebra.params)
        budget, unit = params * count_params(model), "parameters"
        spent = count_params(model) - sum(map(algebra.params, open_convs.values()))
    else:
        costs, counted = macs_of, count_macs(model, shapes)
        budget, unit = (macs or 0) * sum(counted.values()), "MACs"
        spent = sum(counted[name] for name in counted if name not in open_convs)
    recipes = [parse_recipe(name) for name in methods or RECIPES]
    weighed, gains = weigh(model, example, recipes, open_convs, costs, calibrate)
    return _mixture(weighed, gains, dense, budget - spent, unit)


def _uniform(
    rule: Callable[[str, Conv], Choice | str],
    convs: Mapping[str, Conv],
    costs: Mapping[str, Cost],
    dense: Mapping[str, str],
    named: Mapping[str, int],
) -> Plan:
    """One rule for all layers; one that would cost no less stays as it is, unless it is named."""
    layers: dict[str, Choice] = {}
    dense = dict(dense)
    for name, conv in convs.items():
        choice = rule(name, conv)
        if isinstance(choice, str):
            dense[name] = choice
        elif name in named or costs[name](choice.rewrite(conv.without_weights())) < costs[name](
            conv
        ):
            layers[name] = choice
        else:
            dense[name] = f"{choice.label} of rank {choice.rank_label} costs no less"
    return Plan(layers, {name: dense[name] for name in sorted(dense)})


def _mixture(
    weighed: Mapping[str, Sequence[Option]],
    gains: Mapping[str, Mapping[str, float]],
    dense: Mapping[str, str],
    budget: float,
    unit: str,
) -> Plan:
    """What loses the least within a budget."""
    scaled = {
        name: [replace(o, error=gains.get(name, {}).get(o.label, 1.0) * o.error) for o in found]
        for name, found in weighed.items()
    }
    groups = {
        name: [Candidate(o.choice, o.cost, loss(o.error)) for o in undominated(found)]
        for name, found in scaled.items()
    }
    picked = allocate(groups, budget, unit)
    layers = {name: c.choice for name, c in picked.items() if c.choice is not None}
    kept = {name: "worth its cost" for name in picked if name not in layers}
    notes = {name: _note(picked[name], scaled[name], unit) for name in layers}
    return Plan(layers, {**dense, **kept}, notes)


def _note(picked: Candidate, found: Sequence[Option], unit: str) -> Note:
    """What a layer's choice costs and loses, and the best of other methods for no more."""
    chosen = next(o for o in found if o.choice == picked.choice)
    others = [o for o in found if o.label != chosen.label and o.cost <= chosen.cost]
    best = min(others, key=lambda o: o.error, default=None)
    if best is None or best.choice is None:
        return Note(chosen.cost, unit, chosen.error)
    runner_up = f"{best.label} {best.choice.rank_label}"
    return Note(chosen.cost, unit, chosen.error, runner_up, best.error)


def _require_one_wish(
    method: str | None,
    rank: int | Mapping[str, int] | None,
    energy: float | None,
    ratio: float | None,
    macs: float | None,
    params: float | None,
    methods: Sequence[str] | None,
    calibrate: Images | Statistics | None,
) -> None:
    if macs is None and params is None:
        if methods is not None:
            raise DecomposeError("methods are what a budget chooses from; give macs or params")
        if calibrate is not None:
            raise DecomposeError("one method's rank needs no inputs to calibrate on; apply does")
        return
    alone = (macs is None) != (params is None)
    if not alone or any(wish is not None for wish in (method, rank, energy, ratio)):
        raise DecomposeError("a budget of macs or of params stands alone, with methods and skip")
    for name, share in (("macs", macs), ("params", params)):
        if share is not None and not 0 < share <= 1:
            raise DecomposeError(f"{name} {share} is out of bounds: it lies in (0, 1]")


def _ranks_by_pattern(rank: int | Mapping[str, int] | None) -> dict[str, int]:
    if rank is None:
        return {}
    by_pattern = rank if isinstance(rank, Mapping) else {"*": rank}
    try:
        return {pattern: operator.index(number) for pattern, number in by_pattern.items()}
    except TypeError:
        raise DecomposeError(f"rank {rank!r} is no whole number") from None


def _require_within_bound(
    method: Method, convs: Mapping[str, Conv], pattern: str, rank: int
) -> None:
    bounds = [
        method.max_rank(conv)
        for name, conv in convs.items()
        if matches(name, pattern) and method.obstacle(conv) is None
    ]
    bound = max(bounds, default=rank)
    if not 1 <= rank <= bound:
        where = "" if pattern == "*" else f" for {pattern}"
        raise DecomposeError(
            f"rank {rank} of {method.name}{where} is out of bounds: it is 1 to {bound}"
        )
