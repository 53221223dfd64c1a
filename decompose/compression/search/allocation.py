"""Choose the best candidates under a budget, one for each layer, by integer programming.

With candidates c of layer l that cost a_lc and lose e_lc, minimise ``sum e_lc x_lc`` over binary x
with one candidate a layer and ``sum a_lc x_lc <= budget``: a multiple-choice knapsack (``knapsack``). Where
candidates take several layers, or losses are nearly proportional to costs, scipy's HiGHS solves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from decompose.compression.search.candidates import Candidate, undominated
from decompose.compression.search.knapsack import best_items
from decompose.methods.choices import Note
from decompose.models.plans import NARROWED, Plan
from decompose.utils.errors import BudgetError
from decompose.utils.silenced_output import silenced


def allocate(
    candidates: Mapping[str, Sequence[Candidate]], budget: float, unit: str
) -> dict[str, Candidate]:
    """Pick a candidate for every layer, so that the sum of losses is the least within a budget.

    Args:
        candidates: for every layer, by name.
        budget: cost of all layers together, at most.
        unit: of costs, for errors.

    Raises:
        BudgetError: even the cheapest candidates cost more.
    """
    least = _least(candidates)
    if budget < 0:
        raise BudgetError(
            f"no plan meets the budget: what is not decomposed takes {-budget:,.0f} {unit} more than it"
        )
    if least > budget:
        raise BudgetError(
            f"no plan meets the budget of {budget:,.0f} {unit}: the least is {least:,} {unit}"
        )
    if not candidates:
        return {}
    items = _best_items(list(candidates.values()), budget)
    if items is None:
        return _by_integer_program(candidates, budget)
    return {n: candidates[n][item] for n, item in zip(candidates, items, strict=True)}


def _best_items(groups: Sequence[Sequence[Candidate]], budget: float) -> list[int] | None:
    """Index of each layer's candidate; ``None`` where that takes too long, or some take several layers."""
    if any(candidate.covers for group in groups for candidate in group):
        return None
    shape = len(groups), max(map(len, groups))
    costs, losses = np.zeros(shape), np.full(shape, np.inf)
    for row, group in enumerate(groups):
        costs[row, : len(group)] = [candidate.cost for candidate in group]
        losses[row, : len(group)] = [candidate.loss for candidate in group]
    return best_items(costs, losses, budget)


def _by_integer_program(
    candidates: Mapping[str, Sequence[Candidate]], budget: float
) -> dict[str, Candidate]:
    """The best candidates, by HiGHS."""
    flat = [(name, candidate) for name, group in candidates.items() for candidate in group]
    rows = {name: row for row, name in enumerate(candidates)}
    entries = [(rows[n], i) for i, (name, c) in enumerate(flat) for n in (name, *c.covers)]
    one_each = csr_array(
        (np.ones(len(entries)), tuple(zip(*entries, strict=True))), shape=(len(rows), len(flat))
    )
    # Costs in units of the budget: the solver's tolerances are absolute.
    costs = np.array([[candidate.cost / max(budget, 1) for _, candidate in flat]])
    # HiGHS has a line that it prints however quiet it is set (jump-dev/HiGHS.jl, issue 312).
    with silenced():
        solution = milp(
            np.array([candidate.loss for _, candidate in flat]),
            integrality=np.ones(len(flat)),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(costs, -np.inf, 1)],
            options={"mip_rel_gap": 0},
        )
    assert solution.x is not None, solution.message
    picked = {name: c for (name, c), x in zip(flat, solution.x, strict=True) if x > 0.5}
    # The solver holds the budget to a tolerance; a last step back keeps it to the letter.
    return _within(picked, candidates, budget)


def _least(candidates: Mapping[str, Sequence[Candidate]]) -> float:
    """The cost of the cheapest candidates of all layers."""
    alone = {name: min(c.cost for c in found if not c.covers) for name, found in candidates.items()}
    return sum(
        min(c.cost - sum(alone[other] for other in c.covers) for c in found)
        for found in candidates.values()
    )


def _within(
    picked: dict[str, Candidate], candidates: Mapping[str, Sequence[Candidate]], budget: float
) -> dict[str, Candidate]:
    while sum(candidate.cost for candidate in picked.values()) > budget:
        name, cheaper = min(
            (
                (name, c)
                for name, group in candidates.items()
                for c in group
                if name in picked and c.covers == picked[name].covers and c.cost < picked[name].cost
            ),
            key=lambda step: step[1].loss - picked[step[0]].loss,
        )
        picked = {**picked, name: cheaper}
    return picked


def mixture(
    scored: Mapping[str, Sequence[Candidate]],
    dense: Mapping[str, str],
    allowed: float,
    unit: str,
) -> Plan:
    """Pick a candidate for every layer, as a plan.

    Args:
        scored: the candidates of every layer that may be decomposed.
        dense: reasons why the others stay dense.
        allowed: cost of the candidates together, at most.
        unit: of costs.

    Raises:
        DecomposeError: even the cheapest candidates cost more.
    """
    groups = {name: _undominated(found) for name, found in scored.items()}
    picked = allocate(groups, allowed, unit)
    layers = {name: c.choice for name, c in picked.items() if c.choice is not None}
    kept = {name: "worth its cost" for name in picked if name not in layers}
    kept |= {name: NARROWED for c in picked.values() for name in c.covers}
    notes = {name: _note(picked[name], scored[name], unit) for name in layers}
    return Plan(layers, {**dense, **kept}, notes)


def _undominated(found: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that no other of the same layers beats in cost and error."""
    by_layers = groupby(sorted(found, key=lambda o: o.covers), key=lambda o: o.covers)
    return [candidate for _, group in by_layers for candidate in undominated(list(group))]


def _note(picked: Candidate, found: Sequence[Candidate], unit: str) -> Note:
    """Cost and error of a layer's choice, and of the best of other methods that cost no more.

    Where a layer was decomposed already: the best of the other way, its factors in turn or all anew.
    """
    others = [c for c in found if c.label != picked.label and c.covers == picked.covers]
    others = [c for c in others if c.cost <= picked.cost]
    others = [c for c in others if c.is_in_turn != picked.is_in_turn] or others
    best = min(others, key=lambda c: c.error, default=None)
    if best is None or best.choice is None:
        return Note(picked.cost, unit, picked.error)
    runner_up = f"{best.label} {best.choice.rank_label}"
    return Note(picked.cost, unit, picked.error, runner_up, best.error)
