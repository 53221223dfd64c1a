"""Base of the methods that unfold a kernel into one matrix and truncate its SVD."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from decompose.algebra import Conv, Expression, balanced_svd, gram_eigenvalues
from decompose.methods.base import Method


class LowRankMethod(Method):
    """Truncates the SVD of an unfolded kernel: ``M = A B`` with r columns and rows, by Eckart and Young.

    The singular values are shared evenly, so that neither factor outgrows half precision. With
    groups, each has a matrix of its own, and all have the same rank.
    """

    is_nested = True
    rank_is_width = True

    @abstractmethod
    def unfold(self, conv: Conv) -> Tensor:
        """Unfold the kernel into matrices, ``(groups, N, M)``."""

    def max_rank(self, conv: Conv) -> int:
        """min(N, M), the rank of a matrix."""
        return min(self.unfold(conv).shape[1:])

    def energy(self, conv: Conv) -> Tensor:
        """Cumulative ratio of the squared singular values, over all groups together."""
        squares = gram_eigenvalues(self.unfold(conv))
        cumulative = squares.sum(dim=0).cumsum(dim=0)
        if cumulative[-1] == 0:
            return torch.ones_like(cumulative)
        return cumulative / cumulative[-1]

    def _factorize(self, conv: Conv) -> Callable[[int], Expression]:
        a, b = balanced_svd(self.unfold(conv))
        return lambda rank: self._fold(conv, a[..., :rank], b[:, :rank])

    @abstractmethod
    def _fold(self, conv: Conv, a: Tensor, b: Tensor) -> Expression:
        """Make the expression of the factors A, ``(groups, N, r)``, and B, ``(groups, r, M)``."""
