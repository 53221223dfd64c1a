"""Leave out rows of samples that hold NaN or Inf."""

from __future__ import annotations

import torch
from torch import Tensor


def finite_rows(*samples: Tensor, axis: int = 1) -> tuple[Tensor, ...]:
    """Leave out the rows in which any of several tensors is not finite.

    Args:
        samples: tensors with the same number of rows along ``axis``.
        axis: along which rows lie; not negative.

    Returns:
        The same tensors where all their entries are finite.

    Example:
        >>> features = torch.tensor([[[1.0], [2.0], [3.0]]])
        >>> targets = torch.tensor([[[1.0], [float("inf")], [9.0]]])
        >>> [rows.flatten().tolist() for rows in finite_rows(features, targets)]
        [[1.0, 3.0], [1.0, 9.0]]
    """
    if all(bool(torch.isfinite(rows.sum())) for rows in samples):
        return samples
    kept = torch.stack(
        [torch.isfinite(rows).movedim(axis, 0).flatten(1).all(1) for rows in samples]
    ).all(0)
    return tuple(rows.index_select(axis, kept.nonzero().flatten()) for rows in samples)
