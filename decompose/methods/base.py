"""What every method says of itself."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from decompose.algebra import Conv, Expression
from decompose.errors import DecomposeError


class Method(ABC):
    """A rewriting of one convolution, of adjustable rank.

    Called with a convolution and a rank, it returns an expression. With a convolution on the
    meta device it returns the same expression without weights, so that a loader can rebuild a
    network, and a search can price a candidate, from shapes alone.
    """

    name: ClassVar[str]
    """The name in plans and on the command line."""

    title: ClassVar[str]
    """The name in the literature."""

    def __call__(self, conv: Conv, rank: int) -> Expression:
        """Rewrite a convolution.

        Args:
            conv: any stride, padding, dilation and groups, transposed or not, in 1-D to 3-D.
            rank: number of terms, from 1 to ``max_rank(conv)``, where the rewriting is exact.

        Returns:
            An expression of the same dtype and device, its bias added once. It shares no memory
            with the convolution.

        Raises:
            DecomposeError: the rank is out of bounds.
        """
        bound = self.max_rank(conv)
        if not 1 <= rank <= bound:
            raise DecomposeError(f"rank {rank} of {self.name} is out of bounds: it is 1 to {bound}")
        bias = None if conv.bias is None else conv.bias.clone()
        return self._decompose(replace(conv, bias=bias), rank)

    @abstractmethod
    def max_rank(self, conv: Conv) -> int:
        """The rank at which the rewriting is exact for every kernel of this shape."""

    @abstractmethod
    def energy(self, conv: Conv) -> Tensor:
        """Energy held by the first terms.

        Returns:
            ``(max_rank,)``, float64: entry t - 1 is what t terms hold, non-decreasing, 1 at last.
        """

    def rank_for_energy(self, conv: Conv, threshold: float) -> int:
        """The smallest rank that holds at least this share of the energy, in (0, 1].

        Raises:
            DecomposeError: the threshold is out of bounds.
        """
        if not 0 < threshold <= 1:
            raise DecomposeError(f"energy {threshold} is out of bounds: it lies in (0, 1]")
        return int((self.energy(conv) < threshold).sum()) + 1

    @abstractmethod
    def _decompose(self, conv: Conv, rank: int) -> Expression:
        """Rewrite, given a rank within bounds."""
