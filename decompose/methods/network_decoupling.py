"""Network decoupling: a regular convolution as a sum of depthwise separable ones.

Guo, Li, Lin, Chen, Li: "Network Decoupling: From Regular to Depthwise Separable Convolutions",
BMVC 2018 (arXiv 1808.05517). With K taps, O outputs and I inputs (of each group):

- PW+DW (the authors' default). For each output channel o, the SVD of W[o] as an I x K matrix:
  ``W[o] = sum_t sigma_t u_t v_t^T``. Term t has ``sigma_t u_t`` as row o of its pointwise kernel
  and ``v_t`` as the depthwise kernel of channel o. T <= min(I, K).
- DW+PW. For each input channel i, the SVD of W[:, i] as an O x K matrix. Term t has ``v_t`` as
  the depthwise kernel of channel i and ``sigma_t u_t`` as column i of its pointwise kernel.
  T <= min(O, K).

All terms together are the convolution itself (theorem 1); the first T are its best approximation
of that form, by Eckart and Young, and the squared error is the sum of the squared singular values
left out. Stride, padding and dilation sit on the depthwise kernel and nothing comes between the
two, so both orders are exact at the border as well.

The SVDs of a layer are one batched call, O(O I K min(I, K)) in all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from decompose.algebra import (
    Chain,
    Conv,
    Expression,
    Geometry,
    Sum,
    at_least_float32,
    thin_svd,
)
from decompose.methods.base import Method


class NetworkDecoupling(Method):
    """Base of the two orders, which differ in how they slice a kernel into matrices."""

    is_nested = True

    @abstractmethod
    def slices(self, conv: Conv) -> Tensor:
        """Slice the kernel into matrices, ``(S, N, K)``, one for each depthwise channel."""

    def why_not(self, conv: Conv) -> str | None:
        """Refuse pointwise and depthwise kernels, which are terms already."""
        if conv.is_pointwise:
            return "pointwise"
        return "depthwise" if conv.is_depthwise else None

    def singular_values(self, conv: Conv) -> Tensor:
        """Singular values of every slice, ``(S, max_rank)``, non-increasing along the rows."""
        return torch.linalg.svdvals(at_least_float32(self.slices(conv)))

    def max_rank(self, conv: Conv) -> int:
        """min(N, K), the rank of a slice."""
        return min(self.slices(conv).shape[1:])

    def energy(self, conv: Conv) -> Tensor:
        """Cumulative ratio of the squared singular values, as the paper averages it.

        The ratio is taken in each slice and averaged over the slices that are not all zero. A
        layer that is zero altogether is held by its first term.
        """
        squares = self.singular_values(conv).double().square()
        squares = squares[squares[:, 0] > 0]
        if not len(squares):
            return torch.ones(self.max_rank(conv), dtype=torch.float64, device=squares.device)
        cumulative = squares.cumsum(dim=1)
        return (cumulative / cumulative[:, -1:]).mean(dim=0)

    def errors(self, conv: Conv) -> Tensor:
        """The tail of the squared singular values over their sum, all slices together."""
        squares = self.singular_values(conv).double().square().sum(dim=0)
        tails = squares.sum() - squares.cumsum(dim=0)
        return tails / squares.sum() if squares.sum() > 0 else torch.zeros_like(tails)

    def _factorize(self, conv: Conv) -> Callable[[int], Expression]:
        left, right = thin_svd(self.slices(conv))
        pointwise = left.unbind(2)
        depthwise = right.reshape(*right.shape[:2], *conv.kernel_size).split(1, dim=1)
        terms: list[Chain] = []

        def truncate(rank: int) -> Expression:
            """The first terms; each is made once for all ranks."""
            for t in range(len(terms), rank):
                biased = conv if t == 0 else replace(conv, bias=None)
                terms.append(self._term(biased, pointwise[t], depthwise[t]))
            return Sum(*terms[:rank])

        return truncate

    @abstractmethod
    def _term(self, conv: Conv, pointwise: Tensor, depthwise: Tensor) -> Chain:
        """One term, with the convolution's bias and geometry.

        Args:
            conv: the convolution.
            pointwise: its vectors sigma u, ``(S, N)``.
            depthwise: its kernels v, ``(S, 1, *kernel_size)``.
        """


class PointwiseDepthwise(NetworkDecoupling):
    """PW+DW: each term mixes the channels, then filters every output channel."""

    name = "pw_dw"
    title = "network decoupling, PW+DW"

    def slices(self, conv: Conv) -> Tensor:
        """Slice the kernel by output channels, ``(O, I / groups, K)``."""
        return conv.taps_last

    def _term(self, conv: Conv, pointwise: Tensor, depthwise: Tensor) -> Chain:
        return Chain(
            Conv(_pointwise_kernel(pointwise, conv), groups=conv.groups),
            replace(conv, weight=depthwise.contiguous(), groups=conv.out_channels),
        )


class DepthwisePointwise(NetworkDecoupling):
    """DW+PW: each term filters every input channel, then mixes the channels."""

    name = "dw_pw"
    title = "network decoupling, DW+PW"

    def slices(self, conv: Conv) -> Tensor:
        """Slice the kernel by input channels, ``(I, O / groups, K)``."""
        blocks = conv.taps_last.unflatten(0, (conv.groups, -1))
        return blocks.transpose(1, 2).flatten(0, 1)

    def _term(self, conv: Conv, pointwise: Tensor, depthwise: Tensor) -> Chain:
        # (I, O / groups) -> (O, I / groups)
        rows = pointwise.unflatten(0, (conv.groups, -1)).transpose(1, 2).flatten(0, 1)
        return Chain(
            replace(conv, weight=depthwise.contiguous(), bias=None, groups=conv.in_channels),
            Conv(
                _pointwise_kernel(rows, conv),
                conv.bias,
                Geometry.pointwise(conv.geometry.num_axes),
                conv.groups,
            ),
        )


def _pointwise_kernel(rows: Tensor, conv: Conv) -> Tensor:
    return rows.reshape(*rows.shape, *(1 for _ in conv.kernel_size)).contiguous()
