"""Compose factors whose weights lie in one vector, and take gradients of the kernel back to it.

Automatic differentiation does that as well, but where factors are small it takes several times as long as
the products of matrices themselves. With ``compose``'s kernel ``K[(o, t), (i, u)] = sum_m b[(o, t), m]
a[m, (i, u)]`` of a chain and a gradient G with respect to it, those with respect to the factors are ::

    d b  =  G a^T,        d a  =  b^T G

in each of the blocks that the channels between them fall into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from math import gcd, prod
from typing import Protocol

import torch
from torch import Tensor

from decompose.algebra.composition import compose
from decompose.algebra.expressions import Chain, Conv, Expression, leaves

PullBack = Callable[[Tensor, Tensor], None]
"""Writes the gradients with respect to the weights into a vector, from that with respect to the kernel."""


class ComposedKernel:
    """The kernel that an expression composes to, as a function of the weights of its factors.

    Args:
        expression: one that ``compose`` takes; only its structure matters.

    Raises:
        ValueError: as ``compose``.

    Example:
        >>> composed = ComposedKernel(Chain(Conv(torch.ones(1, 1)), Conv(torch.ones(1, 1))))
        >>> kernel, gradients_of = composed(torch.tensor([3.0, 5.0]))
        >>> kernel.item(), gradients_of(torch.ones(1, 1, 1)).tolist()
        (15.0, [5.0, 3.0])
    """

    def __init__(self, expression: Expression) -> None:
        compose(expression)
        ends = accumulate(leaf.weight.numel() for leaf in leaves(expression))
        self._root = _node(expression, ends)

    def __call__(self, weights: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Compose the kernel.

        Args:
            weights: of all factors, one after another, ``(n,)``.

        Returns:
            The kernel, ``(O, I / groups, taps)``; and a function from a gradient with respect to it to
            the gradient with respect to the weights, ``(n,)``.
        """
        kernel, pull_back = self._root.composed(weights)

        def gradients_of(gradient: Tensor) -> Tensor:
            """The gradient with respect to the weights."""
            total = torch.empty_like(weights)
            pull_back(gradient, total)
            return total

        return kernel, gradients_of


class _Node(Protocol):
    """A part of an expression, with a kernel ``(O, I / groups, taps)``."""

    @property
    def groups(self) -> int: ...

    @property
    def kernel_size(self) -> tuple[int, ...]: ...

    def composed(self, weights: Tensor) -> tuple[Tensor, PullBack]: ...


def _node(expression: Expression, ends: Iterator[int]) -> _Node:
    if isinstance(expression, Conv):
        end = next(ends)
        span = slice(end - expression.weight.numel(), end)
        shape = tuple(expression.taps_last.shape)
        return _Factor(span, shape, expression.groups, expression.kernel_size)
    parts = [_node(part, ends) for part in expression.parts]
    return reduce(_Product if isinstance(expression, Chain) else _Total, parts)


@dataclass(frozen=True)
class _Factor:
    """One factor, whose weights lie in a span of the vector."""

    span: slice
    shape: tuple[int, ...]
    groups: int
    kernel_size: tuple[int, ...]

    def composed(self, weights: Tensor) -> tuple[Tensor, PullBack]:
        """The factor itself."""

        def pull_back(gradient: Tensor, total: Tensor) -> None:
            """Write the gradient to the factor's place."""
            total[self.span].view(self.shape).copy_(gradient)

        return weights[self.span].view(self.shape), pull_back


@dataclass(frozen=True)
class _Pair:
    """Two parts that compose to one kernel."""

    first: _Node
    second: _Node

    @property
    def groups(self) -> int:
        """Groups of the whole."""
        return gcd(self.first.groups, self.second.groups)


class _Product(_Pair):
    """``Chain(first, second)``."""

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Taps of the product along each axis."""
        pairs = zip(self.first.kernel_size, self.second.kernel_size, strict=True)
        return tuple(u * t for u, t in pairs)

    def composed(self, weights: Tensor) -> tuple[Tensor, PullBack]:
        """The product of two kernels, block by block."""
        a, back_to_a = self.first.composed(weights)
        b, back_to_b = self.second.composed(weights)
        groups, of_a, of_b = self.groups, self.first.groups, self.second.groups
        if groups not in (of_a, of_b):
            a, back_to_a = _with_groups(a, back_to_a, of_a, groups)
            of_a = groups
        m, n = of_a // groups, of_b // groups
        u, t = self.first.kernel_size, self.second.kernel_size
        inputs, outputs, taps = a.shape[1], len(b) // of_b, prod(t)
        blocks = b.reshape(groups * n, outputs, m, -1, taps)
        # (groups * n * m, outputs * taps, channels between) and (..., channels between, inputs * taps)
        left = blocks.permute(0, 2, 1, 4, 3).reshape(groups * n * m, outputs * taps, -1)
        right = a.reshape(groups * n * m, left.shape[2], -1)
        product = (left @ right).view(groups * n, m, outputs, *t, inputs, *u)
        # To (groups * n, outputs, m, inputs, *taps), of each axis side by side.
        axes = len(t)
        sides = [place for axis in range(axes) for place in (3 + axis, 4 + axes + axis)]
        order = (0, 2, 1, 3 + axes, *sides)
        kernel = product.permute(order)
        back = sorted(range(len(order)), key=order.__getitem__)

        def pull_back(gradient: Tensor, total: Tensor) -> None:
            """Pass gradients on to both kernels."""
            g = gradient.reshape(kernel.shape).permute(back).reshape(*left.shape[:2], -1)
            of_left = (g @ right.mT).view(groups * n, m, outputs, taps, -1)
            back_to_b(of_left.permute(0, 2, 1, 4, 3).reshape(b.shape), total)
            back_to_a((left.mT @ g).view(a.shape), total)

        return kernel.reshape(len(b), m * inputs, -1), pull_back


class _Total(_Pair):
    """``Sum(first, second)``."""

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Taps along each axis."""
        return self.first.kernel_size

    def composed(self, weights: Tensor) -> tuple[Tensor, PullBack]:
        """The sum of two kernels."""
        (a, back_to_a), (b, back_to_b) = (
            _with_groups(*node.composed(weights), node.groups, self.groups)
            for node in (self.first, self.second)
        )

        def pull_back(gradient: Tensor, total: Tensor) -> None:
            """Pass the gradient on to both kernels."""
            back_to_a(gradient, total)
            back_to_b(gradient, total)

        return a + b, pull_back


def _with_groups(
    kernel: Tensor, pull_back: PullBack, groups: int, fewer: int
) -> tuple[Tensor, PullBack]:
    """The kernel with fewer groups, filled up with zeros (``with_groups``)."""
    if groups == fewer:
        return kernel, pull_back
    blocks = groups // fewer
    outputs, (inputs, taps) = len(kernel) // groups, kernel.shape[1:]
    shape = fewer, blocks, outputs, blocks, inputs, taps

    def on_diagonal(dense: Tensor) -> Tensor:
        """What lies in the groups, ``(fewer, blocks, outputs, inputs, taps)``."""
        return dense.view(shape).diagonal(dim1=1, dim2=3).movedim(-1, 1)

    dense = kernel.new_zeros(shape)
    on_diagonal(dense).copy_(kernel.view(fewer, blocks, outputs, inputs, taps))

    def back_within(gradient: Tensor, total: Tensor) -> None:
        """Pass on the gradient with respect to what lies in the groups."""
        pull_back(on_diagonal(gradient).reshape(kernel.shape), total)

    return dense.view(len(kernel), blocks * inputs, taps), back_within
