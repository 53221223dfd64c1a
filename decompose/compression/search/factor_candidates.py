"""Candidates of a decomposed layer with one of its factors decomposed further."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count

from decompose.algebra import Conv, Expression, leaves, map_leaves
from decompose.compression.search.candidates import Candidate, undominated
from decompose.compression.search.outlines import ranks_to_try
from decompose.compression.search.quick_truncations import QuickTruncations
from decompose.methods import Method
from decompose.methods.choices import FACTORS, Choice
from decompose.methods.combinations import Combination
from decompose.methods.ranks import rank_step

_MOST_FACTORS = 4
"""Factors of a layer that are tried: those with the most weights."""

_LEAST_SHARE = 0.1
"""Share of a layer's weights that a factor must hold to be tried."""


def find_factor_candidates(
    factors: Expression,
    combinations: Sequence[Combination],
    cost: Callable[[Expression], int],
    error: Callable[[Expression], float],
    multiple: int = 1,
) -> list[Candidate]:
    """Find candidates of a decomposed layer that decompose one of its factors, none dearer and worse.

    Args:
        factors: of the layer.
        combinations: methods and combinations; the single methods are tried.
        cost: counts a layer's MACs or parameters.
        error: of an expression instead of the layer.
        multiple: of which the channels between new factors are to be a multiple.
    """
    parts = list(leaves(factors))
    methods = [combination[0] for combination in combinations if len(combination) == 1]
    families: dict[str, list[Candidate]] = defaultdict(list)
    for index in _largest(parts):
        whole = partial(_with_factor, factors, index)
        for method in methods:
            if not method.why_not(parts[index]):
                for inner, outline, made in _truncated(parts[index], method, multiple):
                    if (price := cost(whole(outline))) < cost(factors):
                        then = tuple(inner if i == index else None for i in range(len(parts)))
                        choice = Choice(FACTORS, len(parts), then)
                        candidate = Candidate(choice, price, error(whole(made())))
                        families[choice.label].append(candidate)
    return [candidate for family in families.values() for candidate in undominated(family)]


def _truncated(
    factor: Conv, method: Method, multiple: int
) -> Iterator[tuple[Choice, Expression, Callable[[], Expression]]]:
    """A factor's choices by one method, their expressions without weights, and with them."""
    shape, truncations = factor.without_weights(), QuickTruncations(factor)
    outline = partial(method, shape)
    step = rank_step(method, factor, multiple)
    for rank in ranks_to_try(outline, method.max_rank(factor), factor, step):
        made = partial(truncations.made, method, rank, None)
        yield Choice(method.name, rank), outline(rank), made


def _largest(parts: Sequence[Conv]) -> list[int]:
    """The factors with the most weights, in their order."""
    sizes = [part.weight.numel() for part in parts]
    worthwhile = [i for i, size in enumerate(sizes) if size >= _LEAST_SHARE * sum(sizes)]
    return sorted(sorted(worthwhile, key=lambda i: -sizes[i])[:_MOST_FACTORS])


def _with_factor(factors: Expression, index: int, inner: Expression) -> Expression:
    """The factors with one of them replaced."""
    numbers = count()
    return map_leaves(lambda leaf: inner if next(numbers) == index else leaf, factors)
