"""Outlines: expressions without weights, whose costs a search counts; layers of one shape share them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np
import torch

from decompose.algebra import Conv, Expression, Geometry
from decompose.methods import Method
from decompose.methods.choices import Choice
from decompose.methods.combinations import Combination, combine
from decompose.methods.factorisation_cache import FactorisationCache
from decompose.methods.ranks import largest_rank

_MOST_INNER_TERMS = 3

_SHARES = np.geomspace(0.85, 0.05, 24)
"""Shares of a layer's weights at which a low-rank method is tried by itself."""


class Outlines:
    """Outlines of one shape of convolution.

    Args:
        conv: on the meta device.
    """

    def __init__(self, conv: Conv) -> None:
        self._conv, self._made = conv, FactorisationCache(quickly=True)
        self._ranks: dict[tuple[str, int], list[int]] = {}
        self._combined: dict[tuple[tuple[str, ...], int], list[tuple[Choice, Expression]]] = {}

    def of(self, method: Method, rank: int) -> Expression:
        """The outline that a method makes."""
        return self._made(method.name, self._conv, rank)

    def ranks(self, method: Method, step: int) -> list[int]:
        """Ranks of a method that are worth trying, multiples of a step."""
        key = method.name, step
        if key not in self._ranks:
            bound = method.max_rank(self._conv)
            self._ranks[key] = ranks_to_try(partial(self.of, method), bound, self._conv, step)
        return self._ranks[key]

    def of_combinations(
        self, combination: Combination, rank: int
    ) -> list[tuple[Choice, Expression]]:
        """Choices of a combination with this outer rank, at inner ranks worth trying; their outlines."""
        key = tuple(method.name for method in combination), rank
        if key not in self._combined:
            outer = self.of(combination[0], rank)
            choices = dict.fromkeys(
                combine(combination, self._conv, rank, terms, self._made)
                for terms in range(1, _MOST_INNER_TERMS + 1)
            )
            self._combined[key] = [
                (choice, choice.go_on(outer, self._made)) for choice in choices if choice.then
            ]
        return self._combined[key]


def outlines_of(conv: Conv) -> Outlines:
    """The outlines of a convolution's shape; the same ones for every convolution of that shape."""
    return _outlines(tuple(conv.weight.shape), conv.bias is not None, conv.geometry, conv.groups)


@lru_cache(maxsize=32)
def _outlines(
    weight_shape: Sequence[int], has_bias: bool, geometry: Geometry, groups: int
) -> Outlines:
    bias = torch.empty(weight_shape[0], device="meta") if has_bias else None
    return Outlines(Conv(torch.empty(weight_shape, device="meta"), bias, geometry, groups))


def ranks_to_try(
    rewrite: Callable[[int], Expression], bound: int, conv: Conv, step: int = 1
) -> list[int]:
    """All multiples of a step if they are few, and else those next to the shares of ``_SHARES``."""
    if bound // step <= len(_SHARES):
        return list(range(step, bound + 1, step))
    kept = (largest_rank(rewrite, bound, share * conv.weight.numel()) for share in _SHARES)
    return sorted({max(step, rank // step * step) for rank in kept})
