"""The mixture that loses the least within a budget, as a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from decompose.compression.search.allocation import Candidate, allocate
from decompose.compression.search.candidates import Option, loss, undominated
from decompose.models.plans import Note, Plan


def mixture(
    weighed: Mapping[str, Sequence[Option]],
    dense: Mapping[str, str],
    allowed: float,
    unit: str,
) -> Plan:
    """Pick an option for every layer.

    Args:
        weighed: the options of every layer that may be rewritten.
        dense: why the others may not.
        allowed: what the options may cost together.
        unit: what costs are counted in.

    Raises:
        DecomposeError: even the cheapest options cost more.
    """
    groups = {
        name: [Candidate(o.choice, o.cost, loss(o.error)) for o in undominated(found)]
        for name, found in weighed.items()
    }
    picked = allocate(groups, allowed, unit)
    layers = {name: c.choice for name, c in picked.items() if c.choice is not None}
    kept = {name: "worth its cost" for name in picked if name not in layers}
    notes = {name: _note(picked[name], weighed[name], unit) for name in layers}
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
