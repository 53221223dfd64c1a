"""The ways to make a network smaller that are compared, ours and the peers'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Way:
    """A way to make a network smaller.

    Attributes:
        title: for tables.
        num_images: unlabelled images that it takes.
        is_finetuned: whether it is then distilled on the training images.
    """

    title: str
    num_images: int = 0
    is_finetuned: bool = False


HALF = 0.5
"""Share of the MACs from which "again" goes on, finetuned."""

WAYS: Mapping[str, Way] = {
    "free": Way("decompose, no images"),
    "images64": Way("decompose, 64 images", 64),
    "images512": Way("decompose, 512 images", 512),
    "finetuned": Way("decompose, 64 images, then finetuned", 64, is_finetuned=True),
    "again": Way("decompose to 50%, finetuned, decomposed again", 64),
    "svd64": Way("activation-aware SVD, 64 images", 64),
    "svd512": Way("activation-aware SVD, 512 images", 512),
    "tucker": Way("Tucker-2, uniform (tensorly-torch)"),
}
