"""Tucker-2 decomposition: pointwise kernels on both sides of a smaller convolution.

Kim, Park, Yoo, Choi, Yang, Shin: "Compression of Deep Convolutional Neural Networks for Fast and Low
Power Mobile Applications", ICLR 2016 (arXiv 1511.06530), section 3.1: a Tucker decomposition
along the two channel modes, ``W[o, i, taps] = sum C[p, q, taps] A[o, p] B[i, q]``, by higher-order
orthogonal iteration (De Lathauwer, De Moor, Vandewalle 2000, algorithm 4.2), each basis in turn for the
other one.

One rank sets both: r output channels of the core, of at most R_O = min(O, I K), and the same share
of its input channels, ceil(r R_I / R_O) of at most R_I = min(I, O K), so that R_O is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from decompose.algebra import Chain, Conv, Expression, Geometry, at_least_float32
from decompose.methods.base import Method

_ITERATIONS = 5

_SETTLED = 1e-6
"""Share of the energy by which a core that has settled gains less in an iteration."""


class Tucker2(Method):
    """Tucker-2: Chain(1 x 1 I->q, k x k q->r, 1 x 1 r->O)."""

    name = "tucker"
    title = "Tucker-2"
    is_nested = True
    rank_is_width = True

    def why_not(self, conv: Conv) -> str | None:
        """Refuse pointwise kernels and kernels with groups."""
        if conv.is_pointwise:
            return "pointwise"
        return "it has groups" if conv.groups > 1 else None

    def max_rank(self, conv: Conv) -> int:
        """min(O, I K), the rank of the kernel unfolded along its outputs."""
        return min(conv.out_channels, conv.in_channels * conv.num_taps)

    def energy(self, conv: Conv) -> Tensor:
        """Energy of the core of each rank, from the truncated higher-order SVD.

        A lower bound: the iteration finds a core that holds no less.
        """
        kernel = at_least_float32(conv.taps_last)
        core = _rotated(kernel, *_bases(kernel)).double().square().sum(dim=2)
        cumulative = core.cumsum(dim=0).cumsum(dim=1)
        total = cumulative[-1, -1]
        held = torch.stack(
            [
                cumulative[r - 1, self._inputs(conv, r) - 1]
                for r in range(1, self.max_rank(conv) + 1)
            ]
        )
        return held / total if total > 0 else torch.ones_like(held)

    def _inputs(self, conv: Conv, rank: int) -> int:
        """Number of input channels of the core, for a number of its output channels."""
        most = min(conv.in_channels, conv.out_channels * conv.num_taps)
        return -(-rank * most // self.max_rank(conv))

    def prepare_quickly(self, conv: Conv) -> Callable[[int], Expression]:
        """Factorise by the truncated higher-order SVD, from which the iteration starts."""
        if conv.weight.is_meta:
            return super().prepare_quickly(conv)
        kernel = at_least_float32(conv.taps_last)
        a, b = _bases(kernel)
        core = _rotated(kernel, a, b)

        def truncate(rank: int) -> Expression:
            inputs = self._inputs(conv, rank)
            return _chain(conv, core[:rank, :inputs], a[:, :rank], b[:, :inputs])

        return truncate

    def _factorize(self, conv: Conv) -> Callable[[int], Expression]:
        kernel = at_least_float32(conv.taps_last)
        return lambda rank: _chain(conv, *_partial_tucker(kernel, rank, self._inputs(conv, rank)))


def _chain(conv: Conv, core: Tensor, a: Tensor, b: Tensor) -> Expression:
    """Make the expression of a core ``(r, q, K)`` and bases ``(O, r)`` and ``(I, q)``."""
    ones = (1,) * conv.geometry.num_axes
    dtype = conv.weight.dtype
    return Chain(
        Conv(b.T.reshape(*b.T.shape, *ones).to(dtype).contiguous()),
        replace(
            conv,
            weight=core.reshape(*core.shape[:2], *conv.kernel_size).to(dtype).contiguous(),
            bias=None,
        ),
        Conv(
            a.reshape(*a.shape, *ones).to(dtype).contiguous(),
            conv.bias,
            Geometry.pointwise(conv.geometry.num_axes),
        ),
    )


def _bases(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors of the kernel unfolded along its outputs and its inputs."""
    a, b = (_left_singular_vectors(kernel.movedim(mode, 0).flatten(1)) for mode in (0, 1))
    return a, b


def _left_singular_vectors(matrix: Tensor) -> Tensor:
    m = matrix.double()
    return torch.linalg.eigh(m @ m.T).eigenvectors.flip(1).to(matrix.dtype)


def _rotated(kernel: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("oik,op,iq->pqk", kernel, a, b)


def _partial_tucker(kernel: Tensor, outputs: int, inputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """The core, ``(outputs, inputs, K)``, and the bases ``(O, outputs)`` and ``(I, inputs)``."""
    if kernel.is_meta:
        return (
            kernel.new_empty(outputs, inputs, kernel.shape[2]),
            kernel.new_empty(kernel.shape[0], outputs),
            kernel.new_empty(kernel.shape[1], inputs),
        )
    a, b = (basis[:, :size] for basis, size in zip(_bases(kernel), (outputs, inputs), strict=True))
    core, held = _rotated(kernel, a, b), 0.0
    for _ in range(_ITERATIONS):
        a = _left_singular_vectors(torch.einsum("oik,iq->oqk", kernel, b).flatten(1))[:, :outputs]
        b = _left_singular_vectors(torch.einsum("oik,op->ipk", kernel, a).flatten(1))[:, :inputs]
        core = _rotated(kernel, a, b)
        before, held = held, float(core.double().square().sum())
        if held - before <= _SETTLED * held:
            break
    return core, a, b
