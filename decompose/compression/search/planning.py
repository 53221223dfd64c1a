"""Make a plan from a model and options."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import fx, nn

from decompose import algebra
from decompose.algebra import Conv
from decompose.compression.effort import DEFAULT_EFFORT, effort_of
from decompose.compression.search.allocation import mixture
from decompose.compression.search.candidates import DEFAULT_METHODS
from decompose.compression.search.latency_budget import plan_for_latency
from decompose.compression.search.scoring import Cost, score
from decompose.compression.statistics import Statistics
from decompose.inference.engines import default_engine, get_engine
from decompose.inference.latency import Target
from decompose.inference.quantization.int8_engine import int8_engine
from decompose.layers.costs import (
    count_macs,
    count_params,
    count_params_beside,
    find_sharers,
    macs_counters,
)
from decompose.layers.eligibility import find_quantised
from decompose.layers.modules import DecomposedLayer, Layer, to_conv
from decompose.layers.survey import Survey, survey
from decompose.methods import DEFAULT_METHOD, Method
from decompose.methods.choices import Choice
from decompose.methods.combinations import parse_combination
from decompose.methods.pooling import POOL
from decompose.methods.pruning import PRUNE
from decompose.methods.ranks import rank_rule
from decompose.models.plans import KEPT, Plan
from decompose.utils.batches import Batches, Example, device_of
from decompose.utils.errors import DecomposeError
from decompose.utils.name_patterns import last_match, matches, require_match


def plan(
    model: nn.Module,
    example: Example,
    *,
    method: str | None = None,
    rank: int | Mapping[str, int] | None = None,
    energy: float | None = None,
    ratio: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    engine: str | None = None,
    threads: int | None = None,
    int8: bool = False,
    methods: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    calibrate: Batches | Statistics | None = None,
    effort: str = DEFAULT_EFFORT,
    multiple: int | None = None,
) -> Plan:
    """Choose a method and a rank for each layer of a model.

    Either one method with one rule for its rank (``rank``, ``energy`` or ``ratio``), as the papers
    do, from the weights alone; or a budget (``macs``, ``params`` or ``latency``) under which each
    layer gets the method and rank that together change the model's output the least, predicted from
    its weights and its layers' inputs: from unlabelled images of yours, or else synthetic ones.
    A layer that would not get cheaper stays as it is, unless ``rank`` names it in full. In a model that is
    decomposed already, layers keep their factors, or are decomposed anew, or (for a budget) in turn.

    Args:
        model: any module, decomposed or not; left as it was.
        example: one batch: a tensor ``(batch, ...)`` in the model's dtype, a tuple of positional inputs,
            or a dictionary of inputs by name. MACs are counted for its sizes, a latency is that of
            its whole batch.
        method: a method's name (``decompose.methods.METHODS``), or several that apply one inside
            the other, outermost first (``spatial+pw_dw``).
        rank: one for all layers, or one for each name or pattern (``{"conv4_*": 5, "conv4_1": 6}``:
            the last that fits counts, other layers stay as they are). It must be within the bound
            of some layer; the others take their own bound. Of a combination it is the inner rank.
        energy: share of the squared singular values that each layer keeps, in (0, 1] (Guo et al.
            2018, section 4).
        ratio: how many times fewer weights each layer gets, by its outermost method.
        macs: share of the whole model's MACs to keep, in (0, 1].
        params: share of the whole model's parameters to keep, in (0, 1].
        latency: share of the whole model's time to keep, in (0, 1].
        engine: the engine whose time counts: a name of ``decompose.inference.engines.ENGINES``; eager
            torch by default, a CUDA graph where the example lies on a GPU.
        threads: the engine's number of CPU threads; torch's own number by default.
        int8: count the time of both models in INT8 (``quantize``), in ``onnxruntime`` or ``openvino``.
        methods: methods and combinations that the budget may choose from; by default
            ``decompose.compression.search.candidates.DEFAULT_METHODS``. ``prune``, of hidden channels
            behind depthwise layers, is for ``macs`` and ``params``, and takes inputs to calibrate on.
        skip: names of layers, or of modules that hold them, or patterns, to leave as they are.
        calibrate: for a budget: unlabelled inputs, a tensor ``(batch, ...)`` or an iterable of batches,
            that the plan will also be repaired on; or the statistics that ``measure`` took from such.
            Without it the plan supposes no repair.
        effort: for a budget: how long its measurements may take: ``quick``, ``normal`` or ``thorough``.
        multiple: of which the number of channels between a layer's factors is to be a multiple, such as 8,
            16 or 32, which kernels compute together; 1 by default. For a latency, ranks of at least the
            engine's own block are whole blocks by default.

    Returns:
        The plan; its ``dense`` part says why each other layer was left.

    Raises:
        DecomposeError: the arguments are incomplete or contradict each other, no plan can meet the
            budget (the message gives the least), a rank is out of bounds, a name fits no layer,
            weights are not finite, or a method or effort does not exist.

    Examples:
        >>> import torch
        >>> import decompose
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.Conv2d(16, 16, 3)).eval()
        >>> example = torch.zeros(1, 8, 16, 16)
        >>> plan = decompose.plan(model, example, method="pw_dw", rank=2)
        >>> {name: choice.label for name, choice in plan.layers.items()}
        {'0': 'pw_dw', '1': 'pw_dw'}
        >>> plan = decompose.plan(model, example, macs=0.5)  # the best mixture of methods
        >>> sorted(plan.layers)
        ['0', '1']
    """
    skip = (skip,) if isinstance(skip, str) else skip
    budgets = {"macs": macs, "params": params, "latency": latency}
    _require_one_request(budgets, (method, rank, energy, ratio), methods, calibrate)
    if latency is None and (engine is not None or threads is not None or int8):
        raise DecomposeError(
            "an engine, its threads and INT8 belong to a budget of latency; give latency"
        )
    settings = effort_of(effort)
    step = _step(multiple, (method or DEFAULT_METHOD,) if not any(budgets.values()) else methods)
    device = device_of(example)
    runs = (int8_engine if int8 else get_engine)(engine or default_engine(device))
    target = Target(runs, threads or torch.get_num_threads(), device)
    combination = parse_combination(method or DEFAULT_METHOD)
    ranks = _ranks_by_pattern(rank)
    known = survey(model, example, skip)
    if not known.layers:
        raise DecomposeError(f"the model has no layer to decompose{_hint(model)}")
    for pattern in (*skip, *ranks):
        require_match(known.layers, pattern)
    known.warn_of_readers(stacklevel=2)
    macs_of = macs_counters(known.shapes, known.shapes)
    if macs is None and params is None and latency is None:
        for pattern, number in ranks.items():
            _require_within_bound(combination[-1], known.layers, pattern, number)
        rule = rank_rule(combination, ranks, partial(last_match, ranks), energy, ratio, step)
        return _uniform(rule, known, macs_of, named=ranks)
    names = methods or DEFAULT_METHODS
    if params is not None:
        known = _without_sharers(known)
        params_of = dict.fromkeys(known.shapes, algebra.params)
        scored = score(known, names, params_of, calibrate, settings, step)
        chosen = mixture(scored, known.dense, _allowed_params(known, params), "parameters")
        return _with_kept(chosen, known)
    scored = score(known, names, macs_of, calibrate, settings, step)
    if macs is not None:
        chosen = mixture(scored, known.dense, _allowed_macs(known, macs), "MACs")
        return _with_kept(chosen, known)
    assert latency is not None
    block = multiple or runs.channel_block
    return _with_kept(plan_for_latency(known, scored, latency, target, block), known)


def _step(multiple: int | None, methods: Sequence[str] | None) -> int:
    """The multiple, checked to have an effect with these methods."""
    if multiple is None:
        return 1
    if multiple < 1:
        raise DecomposeError(f"multiple {multiple}: must be 1 or more")
    names = DEFAULT_METHODS if methods is None else methods
    if multiple > 1 and not any(_has_width(name) for name in names):
        raise DecomposeError(
            f"multiple {multiple} is without effect: the ranks of {', '.join(names)} are numbers of terms, "
            "not of channels"
        )
    return multiple


def _has_width(name: str) -> bool:
    """Whether the rank of a method or combination is a number of channels."""
    if name in (PRUNE, POOL):
        return name == PRUNE
    return parse_combination(name)[0].rank_is_width


def _hint(model: nn.Module) -> str:
    if quantised := find_quantised(model):
        return f"; {next(iter(quantised))} and others are quantised"
    is_graph = isinstance(model, fx.GraphModule)
    return "; it is a graph: give the module that it was exported from" if is_graph else ""


def _allowed_macs(known: Survey, share: float) -> float:
    counted = count_macs(known.model, known.shapes)
    rest = sum(counted[name] for name in counted if name not in known.convs)
    return share * sum(counted.values()) - rest


def _allowed_params(known: Survey, share: float) -> float:
    # Layers of one weight may be decomposed apart, so that each counts all of its own.
    chosen = known.chosen(known.convs)
    return share * count_params(known.model) - count_params_beside(known.model, chosen)


def _with_kept(chosen: Plan, known: Survey) -> Plan:
    """Say of layers that were decomposed already, and stay so, that they do."""
    decomposed = {name for name, o in known.layers.items() if isinstance(o, DecomposedLayer)}
    kept = dict.fromkeys(decomposed - chosen.layers.keys(), KEPT)
    return replace(chosen, dense={name: kept.get(name, why) for name, why in chosen.dense.items()})


def _without_sharers(known: Survey) -> Survey:
    """Leave layers dense whose weight a module outside of them holds as well."""
    sharers = find_sharers(known.model, known.chosen(known.convs))
    reasons = {name: f"its weight is {other} as well" for name, other in sharers.items()}
    return replace(known, dense={**known.dense, **reasons})


def _uniform(
    rule: Callable[[str, Conv], Choice | str],
    known: Survey,
    costs: Mapping[str, Cost],
    named: Mapping[str, int],
) -> Plan:
    """Apply one rule to all layers; one that would cost no less stays dense, unless it is named."""
    layers: dict[str, Choice] = {}
    dense = dict(known.dense)
    for name, conv in known.convs.items():
        choice, cost = rule(name, conv), costs[name]
        if isinstance(choice, str):
            dense[name] = choice
        elif name in named or cost(choice.rewrite(conv.without_weights())) < cost(
            known.expressions[name]
        ):
            layers[name] = choice
        else:
            dense[name] = f"{choice.label} of rank {choice.rank_label} costs no less"
    return Plan(layers, {name: dense[name] for name in sorted(dense)})


def _require_one_request(
    budgets: Mapping[str, float | None],
    rules: Sequence[object],
    methods: Sequence[str] | None,
    calibrate: Batches | Statistics | None,
) -> None:
    given = {name: share for name, share in budgets.items() if share is not None}
    if not given:
        if methods is not None:
            raise DecomposeError(f"a budget chooses from methods; give {_or(budgets)}")
        if calibrate is not None:
            raise DecomposeError("one method's rank needs no inputs to calibrate on; apply does")
        return
    if len(given) > 1 or any(rule is not None for rule in rules):
        raise DecomposeError(f"a budget of {_or(budgets)} goes with methods and skip only")
    for name, share in given.items():
        if not 0 < share <= 1:
            raise DecomposeError(f"{name} {share} is out of bounds: it lies in (0, 1]")


def _or(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"


def _ranks_by_pattern(rank: int | Mapping[str, int] | None) -> dict[str, int]:
    if rank is None:
        return {}
    by_pattern = rank if isinstance(rank, Mapping) else {"*": rank}
    try:
        return {pattern: operator.index(number) for pattern, number in by_pattern.items()}
    except TypeError:
        raise DecomposeError(f"rank {rank!r} is no whole number") from None


def _require_within_bound(
    method: Method, modules: Mapping[str, Layer], pattern: str, rank: int
) -> None:
    convs = {name: to_conv(module) for name, module in modules.items() if matches(name, pattern)}
    bounds = {name: method.max_rank(c) for name, c in convs.items() if method.why_not(c) is None}
    widest = max(bounds, key=bounds.__getitem__, default=None)
    bound = rank if widest is None else bounds[widest]
    if not 1 <= rank <= bound:
        where = "" if pattern == "*" else f" for {pattern}"
        most = "at least" if widest is None else f"to {bound}, that of layer {widest}"
        raise DecomposeError(
            f"rank {rank} of {method.name}{where} is out of bounds: it is 1 {most}"
        )
