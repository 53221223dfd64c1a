"""Augment inputs, to fit on where they are few.

A layer is refitted to the original's own output, which is right on any input. So one image serves as
several: as it is, mirrored, with its middle enlarged, and halved and tiled with its mirror images, which
shows the layers the same objects at other positions and scales. Where inputs are many, their middles add
nothing that can be measured, and take a fifth of the repair's time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from decompose.utils.batches import Example

_ZOOM = 0.7
"""Share of each side that the enlarged middle shows."""


def augmentations(x: Example, *, are_many: bool = False) -> list[Callable[[Any], Any]]:
    """The augmentations of an input, as functions; they keep its shape and dtype.

    Args:
        x: ``(batch, C, *size)``; only images, with two axes, are shown at other scales. Without
            axes, ``(batch, C)``, there are no others, nor for inputs that are not one tensor.
        are_many: whether inputs are many.
    """
    if not isinstance(x, Tensor) or x.ndim < 3:
        return [_unchanged]
    if x.ndim != 4 or not x.is_floating_point():
        return [_unchanged, _mirrored]
    return [_unchanged, _mirrored, *([] if are_many else [_enlarged]), _tiled]


def _unchanged(x: Any) -> Any:
    return x


def _mirrored(x: Tensor) -> Tensor:
    return x.flip(-1)


def _enlarged(x: Tensor) -> Tensor:
    """Enlarge the middle to the size of the whole."""
    windows = [
        slice((pixels - kept) // 2, (pixels + kept) // 2)
        for pixels, kept in ((pixels, max(1, round(_ZOOM * pixels))) for pixels in x.shape[2:])
    ]
    return _resized(x[:, :, windows[0], windows[1]], list(x.shape[2:]))


def _tiled(x: Tensor) -> Tensor:
    """Halve the image, and tile it with its mirror images, so that the edges meet."""
    height, width = x.shape[2:]
    small = _resized(x, [(height + 1) // 2, (width + 1) // 2])
    wide = torch.cat([small, small.flip(-1)], dim=-1)
    return torch.cat([wide, wide.flip(-2)], dim=-2)[:, :, :height, :width]


def _resized(x: Tensor, size: list[int]) -> Tensor:
    # In float32 at least: resizing has no kernel for half precision everywhere.
    wide = x if x.dtype == torch.float64 else x.float()
    return F.interpolate(wide, size=size, mode="bicubic", antialias=True).to(x.dtype)
