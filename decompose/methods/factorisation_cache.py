"""Cache of factorisations: the convolutions of one layer, each factorised once for all ranks."""

from __future__ import annotations

from collections.abc import Callable

from decompose.algebra import Conv, Expression
from decompose.methods import get_method


class FactorisationCache:
    """Caches the expressions of methods and ranks for convolutions; to be dropped with the layer.

    Args:
        quickly: whether methods factorise by ``prepare_quickly``, for a search.

    >>> import torch
    >>> conv = Conv(torch.randn(8, 8, 3, 3))
    >>> known = FactorisationCache()
    >>> known("spatial", conv, 2) is known("spatial", conv, 2)
    True
    """

    def __init__(self, *, quickly: bool = False) -> None:
        self._quickly = quickly
        # The convolution is kept, so that no other takes its identity.
        self._factorised: dict[tuple[int, str], tuple[Conv, Callable[[int], Expression]]] = {}
        self._made: dict[tuple[int, str, int], Expression] = {}

    def __call__(self, method: str, conv: Conv, rank: int) -> Expression:
        """The expression of a convolution by a method and rank.

        Args:
            method: its name.
            conv: the convolution; the same object is factorised once.
            rank: from 1 to the method's ``max_rank``.

        Raises:
            DecomposeError: as ``Method.__call__``.
        """
        key = id(conv), method
        if (*key, rank) not in self._made:
            if key not in self._factorised:
                taken = get_method(method)
                prepare = taken.prepare_quickly if self._quickly else taken.prepare
                self._factorised[key] = conv, prepare(conv)
            self._made[*key, rank] = self._factorised[key][1](rank)
        return self._made[*key, rank]
