"""The candidates of a layer: methods and combinations, at ranks worth trying."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from decompose.algebra import Conv, Expression, weight_deviation
from decompose.budget import Candidate
from decompose.choices import Choice
from decompose.wishes import Recipe, combine, largest_rank

RECIPES = (
    "pw_dw",
    "dw_pw",
    "spatial",
    "channel",
    "tucker",
    "svd",
    "spatial+pw_dw",
    "spatial+dw_pw",
    "channel+pw_dw",
    "channel+dw_pw",
    "tucker+pw_dw",
    "tucker+dw_pw",
)
"""What a budget chooses from by default: all but CP, which iterates too long."""

_SHARES = np.geomspace(0.9, 0.05, 40)
"""Shares of a layer's weights at which a low-rank method is tried by itself."""

_OUTER_STEP = 4
"""Of those, every so many are tried as the outer method of a combination."""

_MOST_INNER_TERMS = 3


def candidates(
    conv: Conv, recipes: Sequence[Recipe], cost: Callable[[Expression], int]
) -> list[Candidate]:
    """Ways to rewrite a layer, none of which both costs and loses more than another.

    The loss of a candidate that leaves a relative weight error e is -log(1 - e): what is kept of a
    signal multiplies along a network, so these add up, and starving one layer costs without bound.

    Args:
        conv: the layer.
        recipes: methods and combinations, as ``wishes.parse_recipe`` reads them.
        cost: counts an expression's MACs or parameters.
    """
    shape = conv.without_weights()
    found = [Candidate(None, cost(conv), 0.0)]
    outers = {recipe[0].name: recipe[0] for recipe in recipes if not recipe[0].obstacle(conv)}
    shapes = {name: method.prepare(shape) for name, method in outers.items()}
    ranks = {
        name: _ranks(shapes[name], method.max_rank(conv), conv) for name, method in outers.items()
    }
    losses = {
        name: [loss(e) for e in method.errors(conv).tolist()] for name, method in outers.items()
    }
    alone = {recipe[0].name for recipe in recipes if len(recipe) == 1} & set(outers)
    for name in alone:
        for rank in ranks[name]:
            price = cost(shapes[name](rank))
            if price < found[0].cost:
                found.append(Candidate(Choice(name, rank), price, losses[name][rank - 1]))
    found = _undominated(found)
    for name, method in outers.items():
        combinations = [recipe for recipe in recipes if len(recipe) > 1 and recipe[0] is method]
        rewrite = None
        for rank in ranks[name][::_OUTER_STEP]:
            for choice in _combined(combinations, shape, rank):
                price = cost(choice.go_on(shapes[name](rank)))
                # The factors' own truncation only adds to the error.
                if _is_dominated(price, losses[name][rank - 1], found):
                    continue
                rewrite = rewrite or method.draft(conv)
                error = weight_deviation(choice.go_on(rewrite(rank)), conv).relative
                found.append(Candidate(choice, price, loss(error)))
    return _undominated(found)


def loss(error: float) -> float:
    """-log(1 - e) of a relative squared error e, capped short of infinity."""
    return max(0.0, -math.log(max(1 - error, 1e-6)))


def _combined(recipes: Sequence[Recipe], conv: Conv, rank: int) -> list[Choice]:
    """Choices of combinations with this outer rank, at inner ranks worth trying."""
    inner_ranks = range(1, _MOST_INNER_TERMS + 1)
    made = [combine(recipe, conv, rank, terms) for recipe in recipes for terms in inner_ranks]
    return list(dict.fromkeys(choice for choice in made if choice.then))


def _ranks(rewrite: Callable[[int], Expression], bound: int, conv: Conv) -> list[int]:
    """All ranks where they are few, and else those that keep the shares of ``_SHARES``."""
    if bound <= len(_SHARES):
        return list(range(1, bound + 1))
    return sorted({largest_rank(rewrite, bound, share * conv.weight.numel()) for share in _SHARES})


def _is_dominated(cost: int, loss: float, found: Sequence[Candidate]) -> bool:
    return any(other.cost <= cost and other.loss <= loss for other in found)


def _undominated(found: Sequence[Candidate]) -> list[Candidate]:
    """Sorted by falling cost; each loses more than the one before."""
    kept: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: (c.cost, c.loss)):
        if not kept or candidate.loss < kept[-1].loss:
            kept.append(candidate)
    return kept[::-1]
