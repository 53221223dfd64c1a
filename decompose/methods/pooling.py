"""Pooling before a layer as a choice of a plan: it runs once, on the mean of what it reads.

Where a map is averaged over its positions behind a pointwise layer, the mean may be taken before it: the
layer then costs as much as at one position. MobileNet v3 was redesigned so by hand (Howard et al. 2019,
arXiv 1905.02244, section 5.1). Without an activation between the two that is exact.
"""

from __future__ import annotations

from dataclasses import replace

from decompose.algebra import Conv
from decompose.utils.errors import DecomposeError

POOL = "pool"
"""The method of a choice that pools before a layer; the rank is 1, the number of positions."""


def can_pool(conv: Conv) -> bool:
    """Whether a layer treats each position of a map by itself, and all alike."""
    axes = range(conv.geometry.num_axes)
    is_still = not any(map(conv.is_spatial, axes))
    return len(axes) > 0 and is_still and not conv.geometry.transposed


def pooled(conv: Conv) -> Conv:
    """A layer that runs on the mean of its input over all positions.

    Args:
        conv: of one tap, without stride and padding; one that does so already stays as it is.

    Raises:
        DecomposeError: it has more taps, strides or pads.

    Example:
        >>> import torch
        >>> pooled(Conv(torch.ones(2, 3, 1, 1))).geometry.pooled
        True
    """
    if conv.geometry.pooled:
        return conv
    if not can_pool(conv):
        raise DecomposeError(f"{POOL} needs a kernel of one tap that neither strides nor pads")
    return replace(conv, geometry=replace(conv.geometry, pooled=True))


def spread(conv: Conv) -> Conv:
    """The layer that ``pooled`` was made of, or the layer itself."""
    return replace(conv, geometry=replace(conv.geometry, pooled=False))
