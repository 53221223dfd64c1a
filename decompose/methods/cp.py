"""CP decomposition: pointwise kernels around one depthwise kernel for each axis.

Lebedev, Ganin, Rakhuba, Oseledets, Lempitsky: "Speeding-up Convolutional Neural Networks Using
Fine-tuned CP-Decomposition", ICLR 2015 (arXiv 1412.6553): ``W[o, i, y, x] = sum_r A[o, r] B[i, r]
C[y, r] D[x, r]``, by alternating least squares (tensorly's ``parafac``). It iterates from the SVDs
of the unfoldings, has no closed form for the energy of a rank, and is slow for wide layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from decompose.algebra import Chain, Conv, Expression, Geometry, at_least_float32
from decompose.methods.base import Method
from decompose.utils.errors import DecomposeError

_ITERATIONS = 100
_TOLERANCE = 1e-9

_NOISES = (0.0, 1e-5, 1e-4, 1e-3)
"""Shares of a kernel's weights that are added as noise, one after another, until factors are found."""


class CanonicalPolyadic(Method):
    """CP: Chain(1 x 1 I->r, k x 1 depthwise, 1 x k depthwise, 1 x 1 r->O)."""

    name = "cp"
    title = "CP"
    iterates = True
    rank_is_width = True

    def why_not(self, conv: Conv) -> str | None:
        """Refuse pointwise kernels and kernels with groups."""
        if conv.is_pointwise:
            return "pointwise"
        return "it has groups" if conv.groups > 1 else None

    def max_rank(self, conv: Conv) -> int:
        """Number of weights over the largest mode, beyond which no kernel needs a term."""
        return conv.weight.numel() // max(conv.weight.shape)

    def energy(self, conv: Conv) -> Tensor:
        """Refuse: the energy of a rank has no closed form.

        Raises:
            DecomposeError: always.
        """
        raise DecomposeError("cp has no rule from energy to rank; give a rank")

    def _factorize(self, conv: Conv) -> Callable[[int], Expression]:
        return lambda rank: self._decompose(conv, rank)

    def _decompose(self, conv: Conv, rank: int) -> Expression:
        a, b, *taps = _parafac(conv.weight, rank)
        ones = (1,) * conv.geometry.num_axes
        pointwise = Geometry.pointwise(conv.geometry.num_axes)
        parts: list[Conv] = [Conv(_shaped(b.T, ones))]
        for axis, vectors in enumerate(taps):
            size = [1] * len(ones)
            size[axis] = conv.kernel_size[axis]
            parts.append(
                Conv(
                    _shaped(vectors.T.unsqueeze(1), tuple(size)),
                    None,
                    conv.geometry.along([axis]),
                    rank,
                )
            )
        parts.append(Conv(_shaped(a, ones), conv.bias, pointwise))
        return Chain(*(replace(part, weight=part.weight.to(conv.weight.dtype)) for part in parts))


def _shaped(matrix: Tensor, kernel_size: tuple[int, ...]) -> Tensor:
    return matrix.reshape(*matrix.shape[:2], *kernel_size).contiguous()


def _parafac(kernel: Tensor, rank: int) -> list[Tensor]:
    """Factor matrices ``(size, rank)``, one for each mode; the columns of a term are equally long."""
    if kernel.is_meta:
        return [kernel.new_empty(size, rank) for size in kernel.shape]
    wide = at_least_float32(kernel)
    if not wide.any():
        return [wide.new_zeros(size, rank) for size in wide.shape]
    weights, factors = _alternating_least_squares(wide, rank)
    lengths = [factor.norm(dim=0) for factor in factors]
    shared = (weights * prod(lengths[1:], start=lengths[0])).abs().pow(1 / len(factors))
    balanced = [
        factor / length.clamp_min(torch.finfo(factor.dtype).tiny) * shared
        for factor, length in zip(factors, lengths, strict=True)
    ]
    balanced[0] = balanced[0] * weights.sign()
    return balanced


def _alternating_least_squares(kernel: Tensor, rank: int) -> tuple[Tensor, list[Tensor]]:
    """Weights of the terms, ``(rank,)``, and their factors, ``(size, rank)`` for every mode.

    Kernels of lower rank, such as constant ones, make the least squares singular; noise far below
    their weights makes them regular.

    Raises:
        DecomposeError: they stay singular.
    """
    noise = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(0)).to(kernel)
    noise *= kernel.square().mean().sqrt()
    for share in _NOISES:
        try:
            weights, factors = _parafac_once(kernel + share * noise if share else kernel, rank)
        except RuntimeError:  # of linear algebra
            continue
        if all(torch.isfinite(found).all() for found in (weights, *factors)):
            return weights, factors
    raise DecomposeError("cp finds no factors of a kernel of so low a rank; take another method")


def _parafac_once(kernel: Tensor, rank: int) -> tuple[Tensor, list[Tensor]]:
    from tensorly import backend
    from tensorly.decomposition import parafac

    with (
        # tensorly makes this name as it is imported.
        backend.backend_context("pytorch"),  # pyright: ignore[reportAttributeAccessIssue]
        warnings.catch_warnings(),
    ):
        # A rank beyond a mode's size is usual here; tensorly fills up with random vectors.
        warnings.filterwarnings("ignore", "Trying to compute SVD", UserWarning)
        return parafac(
            kernel, rank, n_iter_max=_ITERATIONS, init="svd", tol=_TOLERANCE, random_state=0
        )
