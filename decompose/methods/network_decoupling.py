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
left out. Stride, padding and dilation sit on the depthwise kernel and nothing stands between the
two, so both orders are exact at the border as well.

The SVDs of a layer are one batched call, O(O I K min(I, K)) in all. Half precision is decomposed
in float32, since there is no SVD for it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from decompose.algebra import Chain, Conv, Expression, Geometry, Sum
from decompose.methods.base import Method


class NetworkDecoupling(Method):
    """What the two orders share: they differ in how they slice a kernel into matrices."""

    @abstractmethod
    def slices(self, conv: Conv) -> Tensor:
        """The kernel as a batch of matrices, ``(S, N, K)``: one slice a depthwise channel."""

    def singular_values(self, conv: Conv) -> Tensor:
        """Singular values of every slice, ``(S, max_rank)``, non-increasing along the rows."""
        return torch.linalg.svdvals(_at_least_float32(self.slices(conv)))

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

    def _terms(self, conv: Conv, rank: int) -> tuple[Tensor, Tensor]:
        """Pointwise vectors sigma u, ``(S, N, T)``, and depthwise kernels v, ``(S, T, *taps)``."""
        u, sigma, vt = torch.linalg.svd(_at_least_float32(self.slices(conv)), full_matrices=False)
        pointwise = (u * sigma.unsqueeze(1))[..., :rank]
        depthwise = vt[:, :rank].unflatten(2, conv.kernel_size)
        return pointwise.to(conv.weight.dtype), depthwise.to(conv.weight.dtype)


class PointwiseDepthwise(NetworkDecoupling):
    """PW+DW: each term mixes the channels, then filters every output channel."""

    name = "pw_dw"
    title = "network decoupling, PW+DW"

    def slices(self, conv: Conv) -> Tensor:
        """``(O, I / groups, K)``."""
        return conv.weight.flatten(2)

    def _decompose(self, conv: Conv, rank: int) -> Expression:
        rows, kernels = self._terms(conv, rank)
        taps = (1,) * conv.geometry.num_axes
        return Sum(
            *(
                Chain(
                    Conv(_owned(rows[..., t].unflatten(1, (-1, *taps))), groups=conv.groups),
                    replace(
                        conv,
                        weight=_owned(kernels[:, t : t + 1]),
                        bias=conv.bias if t == 0 else None,
                        groups=conv.out_channels,
                    ),
                )
                for t in range(rank)
            )
        )


class DepthwisePointwise(NetworkDecoupling):
    """DW+PW: each term filters every input channel, then mixes the channels."""

    name = "dw_pw"
    title = "network decoupling, DW+PW"

    def slices(self, conv: Conv) -> Tensor:
        """``(I, O / groups, K)``."""
        blocks = conv.weight.flatten(2).unflatten(0, (conv.groups, -1))
        return blocks.transpose(1, 2).flatten(0, 1)

    def _decompose(self, conv: Conv, rank: int) -> Expression:
        columns, kernels = self._terms(conv, rank)
        taps = (1,) * conv.geometry.num_axes
        # (I, O / groups, T) -> (O, I / groups, T)
        rows = columns.unflatten(0, (conv.groups, -1)).transpose(1, 2).flatten(0, 1)
        return Sum(
            *(
                Chain(
                    Conv(
                        _owned(kernels[:, t : t + 1]),
                        geometry=conv.geometry,
                        groups=conv.in_channels,
                    ),
                    Conv(
                        _owned(rows[..., t].unflatten(1, (-1, *taps))),
                        conv.bias if t == 0 else None,
                        Geometry.pointwise(conv.geometry.num_axes),
                        conv.groups,
                    ),
                )
                for t in range(rank)
            )
        )


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _owned(factor: Tensor) -> Tensor:
    """A factor with memory of its own: a slice would keep all the terms alive, and be strided."""
    return factor.clone(memory_format=torch.contiguous_format)
