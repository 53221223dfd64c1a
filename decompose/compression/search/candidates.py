"""Candidates of a layer: methods and combinations, at ranks worth trying."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import chain

from decompose.algebra import (
    Conv,
    Expression,
    FactorOutputs,
    Sum,
    leaves,
    weight_deviation,
)
from decompose.compression.search.error_prediction import OutputError
from decompose.compression.search.outlines import outlines_of
from decompose.compression.search.quick_truncations import QuickTruncations
from decompose.methods import Method
from decompose.methods.choices import FACTORS, Choice
from decompose.methods.combinations import Combination
from decompose.methods.factorisation_cache import FactorisationCache
from decompose.methods.pooling import POOL
from decompose.methods.pruning import PRUNE
from decompose.methods.ranks import rank_step

COMBINATIONS = (
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
"""Combinations that a budget chooses from by default: all but CP, which iterates too long."""

DEFAULT_METHODS = (*COMBINATIONS, PRUNE, POOL)
"""What a budget chooses from by default."""

_OUTER_STEP = 5
"""Of a method's ranks, every fifth is tried as the outer method of a combination."""

_MOST_WON = 3.0
"""Factor by which repair may win back more with a combination than with its outer method."""


@dataclass(frozen=True)
class Candidate:
    """A choice for a layer, with its cost and error.

    Attributes:
        choice: the method and rank; ``None`` leaves the layer as it is.
        cost: MACs, parameters or microseconds.
        error: relative squared error, of the kernel or of the model's output.
        covers: other layers that the choice takes as well; the cost is that of all.
    """

    choice: Choice | None
    cost: int
    error: float
    covers: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The methods' names; ``dense`` where there are none."""
        return "dense" if self.choice is None else self.choice.label

    @property
    def is_in_turn(self) -> bool:
        """Whether it decomposes the factors of a layer that is decomposed already."""
        return self.choice is not None and self.choice.method == FACTORS

    @property
    def loss(self) -> float:
        """The error as a loss that adds up over layers."""
        return loss(self.error)


def find_candidates(
    truncations: QuickTruncations,
    combinations: Sequence[Combination],
    cost: Callable[[Expression], int],
    error: OutputError | None = None,
    multiple: int = 1,
) -> list[Candidate]:
    """Find candidates for a layer, none both dearer and worse than another of the same methods.

    Args:
        truncations: of the layer.
        combinations: methods and combinations, as ``parse_combination`` reads them.
        cost: counts an expression's MACs or parameters.
        error: predicts the error of an expression instead of the layer; by default it is the relative
            squared error of its kernel. Of the same whitening as the truncations.
        multiple: of which the channels between a method's factors are to be a multiple.

    Returns:
        The layer as it is, then the others.
    """
    conv = truncations.conv
    dense = Candidate(None, cost(truncations.factors or conv), 0.0)
    outers = [
        _Outer(method, truncations, cost, error, multiple)
        for method in _outer_methods(combinations, conv)
        if method.max_rank(conv) >= rank_step(method, conv, multiple)
    ]
    alone = [o for outer in outers for o in outer.alone() if o.cost < dense.cost]
    named = {combination[0].name for combination in combinations if len(combination) == 1}
    found = [dense, *(o for o in alone if o.label in named)]
    for outer in outers:
        inside = [c for c in combinations if c[0] is outer.method and len(c) > 1]
        found += outer.combined(inside, [dense, *alone]) if inside else []
    families: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in found:
        families[candidate.label].append(candidate)
    return [candidate for family in families.values() for candidate in undominated(family)]


def _outer_methods(combinations: Sequence[Combination], conv: Conv) -> list[Method]:
    """The outer methods that take a layer, each once, without those that another specialises."""
    every = dict.fromkeys(combination[0] for combination in combinations)
    taking = [method for method in every if not method.why_not(conv)]
    return [
        method
        for method in taking
        if not any(o is not method and isinstance(o, type(method)) for o in taking)
    ]


class _Outer:
    """A method for one layer, alone and as the outer method of combinations."""

    def __init__(
        self,
        method: Method,
        truncations: QuickTruncations,
        cost: Callable[[Expression], int],
        error: OutputError | None,
        multiple: int,
    ) -> None:
        self.method, conv = method, truncations.conv
        self._conv, self._cost, self._error = conv, cost, error
        self._truncations = truncations
        self._outlines = outlines_of(conv)
        step = rank_step(method, conv, multiple)
        self._ranks = self._outlines.ranks(method, step)

    def alone(self) -> list[Candidate]:
        """Candidates of the method alone, one for every rank."""
        name = self.method.name
        return [
            Candidate(Choice(name, rank), self._cost(self._outline(rank)), error)
            for rank, error in self._errors.items()
        ]

    def combined(
        self, combinations: Sequence[Combination], others: Sequence[Candidate]
    ) -> list[Candidate]:
        """Combinations whose error may be lower than that of other candidates of their cost."""
        found = []
        for rank in self._ranks[::_OUTER_STEP]:
            # The factors' own truncation only adds to the error.
            least = self._errors[rank]
            known, outputs = FactorisationCache(quickly=True), FactorOutputs()
            made = cache(partial(self._truncations.made, self.method, rank))
            inner = [self._outlines.of_combinations(each, rank) for each in combinations]
            for choice, outline in chain.from_iterable(inner):
                price = self._cost(outline)
                if not any(o.cost <= price and o.error * _MOST_WON <= least for o in others):
                    channels = self._truncations.whitens_channels(outline)
                    expression = choice.go_on(made(channels), known)
                    error = self._error_of(expression, channels, outputs)
                    found.append(Candidate(choice, price, error))
        return found

    def _outline(self, rank: int) -> Expression:
        """The expression that the method makes of the layer, without weights."""
        return self._outlines.of(self.method, rank)

    @cached_property
    def _errors(self) -> dict[int, float]:
        """The error of every rank."""
        if self._error is None:
            errors = self.method.errors(self._conv).tolist()
            return {rank: errors[rank - 1] for rank in self._ranks}
        outlines = [self._outline(rank) for rank in self._ranks]
        channels = self._truncations.whitens_channels(outlines[-1])
        made = partial(self._truncations.made, self.method, channels=channels)
        if self.method.is_nested and _is_cut_by_channels(outlines[-1]):
            errors = self._error.of_truncations(made(self._ranks[-1]), outlines, channels=channels)
        else:
            errors = [self._error(made(rank), channels=channels) for rank in self._ranks]
        return dict(zip(self._ranks, errors, strict=True))

    def _error_of(
        self, expression: Expression, channels: bool | None, outputs: FactorOutputs
    ) -> float:
        if self._error is None:
            return weight_deviation(expression, self._conv).relative
        return self._error(expression, channels=channels, outputs=outputs)


def _is_cut_by_channels(outline: Expression) -> bool:
    """Whether its first terms, or the first channels between its factors, are a lower rank."""
    return isinstance(outline, Sum) or all(leaf.groups == 1 for leaf in leaves(outline))


def undominated(found: Sequence[Candidate]) -> list[Candidate]:
    """Keep the candidates that no other beats in cost and error, by falling cost."""
    kept: list[Candidate] = []
    for candidate in sorted(found, key=lambda o: (o.cost, o.error)):
        if not kept or candidate.error < kept[-1].error:
            kept.append(candidate)
    return kept[::-1]


def loss(error: float) -> float:
    """-log(1 - e) of a relative squared error e, capped short of infinity; the cap where e is NaN."""
    return -math.log(1e-6) if math.isnan(error) else max(0.0, -math.log(max(1 - error, 1e-6)))
