"""What methods share that unfold a kernel into one matrix and truncate its SVD."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from decompose.algebra import Conv, Expression, at_least_float32
from decompose.methods.base import Method


class LowRankMethod(Method):
    """A kernel unfolded into a matrix, ``M = A B`` with r columns and rows, by Eckart and Young.

    The singular values are shared evenly, so that neither factor outgrows half precision. With
    groups, each has a matrix of its own, and all have the same rank.
    """

    @abstractmethod
    def unfold(self, conv: Conv) -> Tensor:
        """The kernel as matrices, ``(groups, N, M)``."""

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
        matrices = self.unfold(conv)
        u, sigma, vt = torch.linalg.svd(at_least_float32(matrices), full_matrices=False)
        scale = sigma.sqrt()
        a, b = (
            (u * scale.unsqueeze(1)).to(matrices.dtype),
            (vt * scale.unsqueeze(2)).to(matrices.dtype),
        )
        return lambda rank: self._fold(conv, a[..., :rank], b[:, :rank])

    @abstractmethod
    def _fold(self, conv: Conv, a: Tensor, b: Tensor) -> Expression:
        """The expression of the factors A, ``(groups, N, r)``, and B, ``(groups, r, M)``."""


def gram_eigenvalues(matrices: Tensor) -> Tensor:
    """Squared singular values, ``(batch, min(N, M))`` in float64, falling along the rows.

    From the smaller Gram matrix, which is quicker by far where one side is long.
    """
    m = matrices.double()
    gram = m @ m.mT if m.shape[1] <= m.shape[2] else m.mT @ m
    return torch.linalg.eigvalsh(gram).flip(1).clamp_min(0)
