"""From a network and a wish to a plan."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial

from torch import Tensor, nn

from decompose import algebra
from decompose.algebra import Conv, Expression, Whitening
from decompose.budget import Candidate, allocate
from decompose.candidates import RECIPES, Option, loss, options, undominated
from decompose.choices import Choice
from decompose.errors import DecomposeError
from decompose.inputs import Images
from decompose.layers import count_macs, count_params, find_originals, obstacle, trace_shapes
from decompose.marginals import Marginals, is_whitenable
from decompose.methods import DEFAULT_METHOD, Method
from decompose.modules import Original, expression_macs, to_conv
from decompose.plans import Note, Plan
from decompose.prediction import output_error
from decompose.probing import probe
from decompose.progress import track
from decompose.statistics import Statistics, gather
from decompose.synthetic import synthetic_inputs
from decompose.wishes import Recipe, parse_recipe, rank_rule

_NUM_SYNTHETIC = 6

Cost = Callable[[Expression], int]
"""What an expression in a layer's place costs."""


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
        _require_match(convs, pattern)
    shapes = trace_shapes(model, example)
    dense = {
        name: reason
        for name, module in modules.items()
        if (reason := _reason_to_skip(name, module, skip, reached=name in shapes))
    }
    open_convs = {name: conv for name, conv in convs.items() if name not in dense}
    macs_of = {name: partial(_count_macs, shapes[name]) for name in open_convs}
    if macs is None and params is None:
        for pattern, number in ranks.items():
            _require_within_bound(recipe[-1], convs, pattern, number)
        rule = rank_rule(recipe, ranks, partial(_last_match, ranks), energy, ratio)
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
    weighed, gains = _weigh(model, example, recipes, open_convs, costs, calibrate)
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


def measure(
    model: nn.Module,
    example: Tensor,
    images: Images,
    *,
    methods: Sequence[str] | None = None,
    skip: Sequence[str] = (),
) -> Statistics:
    """Take from inputs all that ``plan`` needs of them, to be kept for any number of budgets.

    Args:
        model: left as it was.
        example: one input tensor with a batch axis.
        images: unlabelled inputs, a tensor or an iterable of batches.
        methods: what budgets will choose from.
        skip: layers to leave, as for ``plan``.

    Raises:
        DecomposeError: there are no inputs, or the network does not take them.
    """
    shapes = trace_shapes(model, example)
    convs = {
        name: to_conv(module)
        for name, module in find_originals(model).items()
        if not _reason_to_skip(name, module, skip, reached=name in shapes)
    }
    recipes = [parse_recipe(name) for name in methods or RECIPES]
    statistics = gather(model, images, convs)
    costs = {name: partial(_count_macs, shapes[name]) for name in convs}
    whitenings = _whitenings(convs, statistics)
    weighed = _options(recipes, convs, costs, statistics, whitenings)
    known = {name: weighed[name] for name in weighed if name in statistics.layers}
    gains = probe(model, images, known, repaired=True, whitenings=whitenings)
    return replace(statistics, gains=gains)


def _weigh(
    model: nn.Module,
    example: Tensor,
    recipes: Sequence[Recipe],
    convs: Mapping[str, Conv],
    costs: Mapping[str, Cost],
    calibrate: Images | Statistics | None,
) -> tuple[dict[str, list[Option]], Mapping[str, Mapping[str, float]]]:
    """The options of every layer, and what their errors are to be multiplied by."""
    if isinstance(calibrate, Statistics):
        _require_same_layers(convs, calibrate)
        whitenings = _whitenings(convs, calibrate)
        return _options(recipes, convs, costs, calibrate, whitenings), calibrate.gains
    images = calibrate
    if images is None:
        images = synthetic_inputs(example[:1], model, num=_NUM_SYNTHETIC)
    elif isinstance(images, Iterator):
        images = list(images)
    statistics = gather(model, images, convs)
    repaired = calibrate is not None
    whitenings = _whitenings(convs, statistics) if repaired else {}
    weighed = _options(recipes, convs, costs, statistics, whitenings)
    known = {name: weighed[name] for name in weighed if name in statistics.layers}
    return weighed, probe(model, images, known, repaired=repaired, whitenings=whitenings)


def _whitenings(convs: Mapping[str, Conv], statistics: Statistics) -> dict[str, Whitening]:
    """The coordinates in which repair may truncate."""
    found = {
        name: Marginals.of_patches(conv, statistics.layers[name])
        for name, conv in convs.items()
        if name in statistics.layers and is_whitenable(conv)
    }
    return {name: marginals.whitening() for name, marginals in found.items()}


def _options(
    recipes: Sequence[Recipe],
    convs: Mapping[str, Conv],
    costs: Mapping[str, Cost],
    statistics: Statistics,
    whitenings: Mapping[str, Whitening],
) -> dict[str, list[Option]]:
    found = {}
    for name, conv in track(convs.items(), "weighing candidates", total=len(convs)):
        known = statistics.layers.get(name)
        wide = algebra.widened(conv)
        assert isinstance(wide, Conv)
        # Where no gradient came back, the kernel's own error has to do.
        told = known is not None and bool(known.metric.any())
        error = output_error(wide, known) if known is not None and told else None
        found[name] = options(wide, recipes, costs[name], error, whitenings.get(name))
    return found


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


def _require_same_layers(convs: Mapping[str, Conv], statistics: Statistics) -> None:
    for name, conv in convs.items():
        known = statistics.layers.get(name)
        if known is not None and known.mean.shape != (conv.groups, conv.weight[0].numel()):
            raise DecomposeError(f"layer {name}: the statistics are those of another network")


def _count_macs(shapes: Sequence[tuple[int, ...]], expression: Expression) -> int:
    return sum(expression_macs(expression, shape) for shape in shapes)


def _reason_to_skip(
    name: str, module: Original, skip: Sequence[str], *, reached: bool
) -> str | None:
    if any(_matches(name, pattern) for pattern in skip):
        return "skipped by name"
    if not reached:
        return "not reached by the example"
    return obstacle(module)


def _ranks_by_pattern(rank: int | Mapping[str, int] | None) -> dict[str, int]:
    if rank is None:
        return {}
    by_pattern = rank if isinstance(rank, Mapping) else {"*": rank}
    try:
        return {pattern: operator.index(number) for pattern, number in by_pattern.items()}
    except TypeError:
        raise DecomposeError(f"rank {rank!r} is no whole number") from None


def _last_match(ranks: Mapping[str, int], name: str) -> int | None:
    fitting = [rank for pattern, rank in ranks.items() if _matches(name, pattern)]
    return fitting[-1] if fitting else None


def _require_within_bound(
    method: Method, convs: Mapping[str, Conv], pattern: str, rank: int
) -> None:
    bounds = [
        method.max_rank(conv)
        for name, conv in convs.items()
        if _matches(name, pattern) and method.obstacle(conv) is None
    ]
    bound = max(bounds, default=rank)
    if not 1 <= rank <= bound:
        where = "" if pattern == "*" else f" for {pattern}"
        raise DecomposeError(
            f"rank {rank} of {method.name}{where} is out of bounds: it is 1 to {bound}"
        )


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)


def _require_match(names: Iterable[str], pattern: str) -> None:
    if not any(_matches(name, pattern) for name in names):
        raise DecomposeError(f"{pattern}: no layer has that name; there are: {', '.join(names)}")
