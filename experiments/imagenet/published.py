"""Published figures of ImageNet classifiers that were made smaller, as their papers report them."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """One published result.

    Attributes:
        network: its name.
        method: of whom.
        macs: share of the MACs that is left.
        change: points of top-1 against the original.
        is_finetuned: whether the network was trained after.
        source: where it is reported.
    """

    network: str
    method: str
    macs: float
    change: float
    is_finetuned: bool
    source: str


PUBLISHED = (
    Published("ResNet-18", "SVD-NAS", 0.414, -13.35, False, "arXiv 2208.10404"),
    Published("ResNet-18", "ALDS, as redone by SVD-NAS", 0.577, -18.70, False, "arXiv 2208.10404"),
    Published("ResNet-18", "ALDS", 0.355, -0.38, True, "arXiv 2107.11442"),
    Published("ResNet-18", "AIMET, spatial SVD and pruning", 0.5, -1.20, True, "AIMET"),
    Published("ResNet-50", "AIMET, spatial SVD and pruning", 0.5, -0.30, True, "AIMET"),
    Published("MobileNet v2", "SVD-NAS", 0.875, -15.09, False, "arXiv 2208.10404"),
)
