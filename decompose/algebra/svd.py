"""Singular value decomposition by the Gram matrix of the smaller side.

For a batch of matrices M, N x M, with N >= M, the eigenvectors of M^T M are the right singular
vectors V, and M V holds the left ones, each as long as its singular value. So ``(M V) V^T`` is M but
for rounding, even where the eigenvectors are inexact, and a truncation loses the energy left out.
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
    """Thin SVD of a batch of matrices, with the singular values in the left factor.

    Args:
        matrices: ``(batch, N, M)``; half precision is computed in float32.

    Returns:
        U sigma, ``(batch, N, R)``, and V^T, ``(batch, R, M)``, for R = min(N, M), of the dtype given.

    Example:
        >>> left, right = thin_svd(torch.randn(1, 5, 3))
        >>> left.shape, right.shape
        (torch.Size([1, 5, 3]), torch.Size([1, 3, 3]))
    """
    if matrices.is_meta:
        return _shapes(matrices)
    left, right = _factors(at_least_float32(matrices))
    lengths = torch.linalg.vector_norm(right, dim=2)
    unit = right / _nonzero(lengths).unsqueeze(2)
    return (left * lengths.unsqueeze(1)).to(matrices.dtype), unit.to(matrices.dtype)


def balanced_svd(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Thin SVD with the singular values shared evenly: U sigma^1/2 and sigma^1/2 V^T.

    Args:
        matrices: ``(batch, N, M)``; half precision is computed in float32.

    Returns:
        ``(batch, N, R)`` and ``(batch, R, M)``, for R = min(N, M), of the dtype given.

    Example:
        >>> a, b = balanced_svd(torch.tensor([[[9.0]]]))
        >>> abs(a.item()), abs(b.item())
        (3.0, 3.0)
    """
    if matrices.is_meta:
        return _shapes(matrices)
    left, right = _factors(at_least_float32(matrices))
    # One of them is of unit vectors.
    ratio = torch.linalg.vector_norm(right, dim=2) / _nonzero(torch.linalg.vector_norm(left, dim=1))
    scale = torch.where(ratio > 0, ratio, 1.0).sqrt()
    a, b = left * scale.unsqueeze(1), right / scale.unsqueeze(2)
    return a.to(matrices.dtype), b.to(matrices.dtype)


def gram_eigenvalues(matrices: Tensor) -> Tensor:
    """Squared singular values of a batch of matrices, by falling size.

    Args:
        matrices: ``(batch, N, M)``.

    Returns:
        ``(batch, min(N, M))``, float64.

    Example:
        >>> gram_eigenvalues(torch.diag_embed(torch.tensor([[1.0, 2.0]]))).tolist()
        [[4.0, 1.0]]
    """
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
