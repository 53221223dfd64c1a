"""Singular value decomposition by the Gram matrix of the smaller side.

For a batch of matrices M, N x M, with N >= M, the eigenvectors of M^T M are the right singular
vectors V, and M V holds the left ones, each as long as its singular value. So ``(M V) V^T`` is M but
for rounding, whatever the eigenvectors' own error, and a truncation loses the energy left out.
Singular values below sqrt(eps) of the largest are known to that share only. O(N M^2), with a small
factor where one side is short: kernels have nine taps, and hundreds of channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from decompose.algebra.dtypes import at_least_float32

_WIDE = 1024
"""A smaller side from which on the Gram matrix is in the matrices' own precision, for speed."""


def thin_svd(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The terms of a batch of matrices, the largest first.

    Args:
        matrices: ``(batch, N, M)``; half precision is computed in float32.

    Returns:
        U sigma, ``(batch, N, R)``, and V^T, ``(batch, R, M)``, for R = min(N, M), of the dtype given.
    """
    if matrices.is_meta:
        return _shapes(matrices)
    left, right = _factors(at_least_float32(matrices))
    lengths = torch.linalg.vector_norm(right, dim=2)
    unit = right / _nonzero(lengths).unsqueeze(2)
    return (left * lengths.unsqueeze(1)).to(matrices.dtype), unit.to(matrices.dtype)


def balanced_svd(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """As ``thin_svd``, the singular values shared evenly: U sigma^1/2 and sigma^1/2 V^T."""
    if matrices.is_meta:
        return _shapes(matrices)
    left, right = _factors(at_least_float32(matrices))
    # One of them is of unit vectors.
    ratio = torch.linalg.vector_norm(right, dim=2) / _nonzero(torch.linalg.vector_norm(left, dim=1))
    scale = torch.where(ratio > 0, ratio, 1.0).sqrt()
    a, b = left * scale.unsqueeze(1), right / scale.unsqueeze(2)
    return a.to(matrices.dtype), b.to(matrices.dtype)


def gram_eigenvalues(matrices: Tensor) -> Tensor:
    """Squared singular values, ``(batch, min(N, M))`` in float64, falling along the rows."""
    m = matrices.double()
    gram = m @ m.mT if m.shape[1] <= m.shape[2] else m.mT @ m
    return torch.linalg.eigvalsh(gram).flip(1).clamp_min(0)


def _shapes(matrices: Tensor) -> tuple[Tensor, Tensor]:
    batch, rows, columns = matrices.shape
    rank = min(rows, columns)
    return matrices.new_empty(batch, rows, rank), matrices.new_empty(batch, rank, columns)


def _factors(m: Tensor) -> tuple[Tensor, Tensor]:
    """Left and right factors, those of the smaller side orthonormal."""
    if m.shape[1] < m.shape[2]:
        left, right = _factors(m.mT)
        return right.mT, left.mT
    wide = m if m.shape[2] >= _WIDE else m.double()
    v = torch.linalg.eigh(wide.mT @ wide).eigenvectors.flip(2).to(m.dtype)
    return m @ v, v.mT


def _nonzero(lengths: Tensor) -> Tensor:
    return torch.where(lengths > 0, lengths, 1.0)
