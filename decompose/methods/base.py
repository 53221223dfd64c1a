"""The interface of every method."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from decompose.algebra import Conv, Expression, map_leaves, owned
from decompose.utils.errors import DecomposeError


class Method(ABC):
    """Rewrites one convolution as an expression of adjustable rank.

    Called with a convolution and a rank, it returns an expression. With a convolution on the
    meta device it returns the same expression without weights, so that a loader can rebuild a
    model, and a search can price a candidate, from shapes alone.

    Example:
        >>> import torch
        >>> from decompose.methods import get_method
        >>> spatial = get_method("spatial")
        >>> conv = Conv(torch.randn(16, 8, 3, 3))
        >>> [part.kernel_size for part in spatial(conv, rank=4).parts]
        [(3, 1), (1, 3)]
        >>> spatial.max_rank(conv), spatial.why_not(Conv(torch.randn(16, 8, 1, 1)))
        (24, 'spatial along one axis')
    """

    name: ClassVar[str]
    """The name in plans and on the command line."""

    title: ClassVar[str]
    """The name in the literature."""

    iterates: ClassVar[bool] = False
    """Whether it is an iteration that may stop short of the best, at full rank as well."""

    rank_is_width: ClassVar[bool] = False
    """Whether the rank is a number of channels between factors (of each group), not of terms."""

    is_nested: ClassVar[bool] = False
    """Whether ``prepare_quickly`` makes of each rank the first terms, or channels, of a higher one."""

    def __call__(self, conv: Conv, rank: int) -> Expression:
        """Rewrite a convolution.

        Args:
            conv: any stride, padding, dilation and groups, transposed or not, in 1-D to 3-D.
            rank: number of terms, from 1 to ``max_rank(conv)``, where the rewriting is exact.

        Returns:
            An expression of the same dtype and device, its bias added once. It shares no memory
            with the convolution.

        Raises:
            DecomposeError: the method cannot take the convolution, or the rank is out of bounds.
        """
        return self.prepare(conv)(rank)

    def prepare(self, conv: Conv) -> Callable[[int], Expression]:
        """Factorise a convolution once for all its ranks.

        Returns:
            A function from a rank to the expression that ``self(conv, rank)`` is.

        Raises:
            DecomposeError: the method cannot take the convolution; the function raises it where
                the rank is out of bounds.
        """
        self._require(conv)
        bound = self.max_rank(conv)
        truncate = self._factorize(conv)

        def rewrite(rank: int) -> Expression:
            """The expression of a rank, with tensors of its own; raises ``DecomposeError``."""
            if not 1 <= rank <= bound:
                raise DecomposeError(
                    f"rank {rank} of {self.name} is out of bounds: it is 1 to {bound}"
                )
            return map_leaves(owned, truncate(rank))

        return rewrite

    def prepare_quickly(self, conv: Conv) -> Callable[[int], Expression]:
        """Factorise quickly, for a search that tries many ranks.

        Expressions have the shapes of those of ``prepare``, and errors no smaller. They share memory, and
        their ranks are to be within bounds.

        Raises:
            DecomposeError: the method cannot take the convolution.
        """
        self._require(conv)
        return self._factorize(conv)

    @abstractmethod
    def why_not(self, conv: Conv) -> str | None:
        """Why the method cannot make such a convolution smaller, or ``None`` if it can."""

    @abstractmethod
    def max_rank(self, conv: Conv) -> int:
        """The rank at which the rewriting is exact for every kernel of this shape."""

    @abstractmethod
    def energy(self, conv: Conv) -> Tensor:
        """Share of the energy that the first terms hold.

        Returns:
            ``(max_rank,)``, float64: entry t - 1 is the share of t terms; non-decreasing, 1 at last.
        """

    def errors(self, conv: Conv) -> Tensor:
        """Relative squared error of the kernel at each rank, ``(max_rank,)``, float64.

        Where a method iterates, an upper bound.
        """
        return 1 - self.energy(conv)

    def rank_for_energy(self, conv: Conv, threshold: float) -> int:
        """The smallest rank that holds at least this share of the energy, in (0, 1].

        Raises:
            DecomposeError: the threshold is out of bounds.
        """
        if not 0 < threshold <= 1:
            raise DecomposeError(f"energy {threshold} is out of bounds: it lies in (0, 1]")
        return int((self.energy(conv) < threshold).sum()) + 1

    def _require(self, conv: Conv) -> None:
        if reason := self.why_not(conv):
            raise DecomposeError(f"{self.name} cannot take it: {reason}")

    @abstractmethod
    def _factorize(self, conv: Conv) -> Callable[[int], Expression]:
        """Return the expression as a function of a rank within bounds."""
