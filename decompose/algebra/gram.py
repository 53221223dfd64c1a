"""Gram matrices of rows, added up below the diagonal only.

``R^T R`` is symmetric, so the blocks on and below the diagonal say all: with many columns that is little
more than half of the products.
"""

from __future__ import annotations

from torch import Tensor

_NARROWEST, _MOST_BLOCKS = 96, 9
"""Columns of a block at least: of fewer, products of matrices lose their speed. And blocks, more or less:
the rows are read once for each.
"""


def add_gram_(total: Tensor, rows: Tensor) -> None:
    """Add ``R^T R`` to a sum in place; above its diagonal the sum is right only after ``mirror_``.

    Args:
        total: ``(groups, F, F)``, of the rows' dtype or a wider one.
        rows: ``(groups, n, F)``.

    Example:
        >>> import torch
        >>> total = torch.zeros(1, 2, 2)
        >>> add_gram_(total, torch.ones(1, 3, 2))
        >>> mirror_(total)[0].tolist()
        [[3.0, 3.0], [3.0, 3.0]]
    """
    for start, stop in _blocks(total):
        left, right = rows[..., start:].mT, rows[..., start:stop]
        into = total[:, start:, start:stop]
        if total.dtype != rows.dtype or len(total) > 1:
            into += left @ right
        else:
            into[0].addmm_(left[0], right[0])


def mirror_(total: Tensor) -> Tensor:
    """Copy what lies below the diagonal above it, in place.

    Args:
        total: ``(groups, F, F)``.

    Example:
        >>> import torch
        >>> mirror_(torch.tensor([[[1.0, 0.0], [2.0, 3.0]]]))[0].tolist()
        [[1.0, 2.0], [2.0, 3.0]]
    """
    for start, stop in _blocks(total):
        block = total[:, start:stop, start:stop]
        block.copy_(block.tril() + block.tril(-1).mT)
        total[:, start:stop, stop:] = total[:, stop:, start:stop].mT
    return total


def _blocks(total: Tensor) -> list[tuple[int, int]]:
    """First column of each block, and the first behind it."""
    size = total.shape[2]
    width = max(_NARROWEST, size // _MOST_BLOCKS)
    return [(start, min(start + width, size)) for start in range(0, size, width)]
