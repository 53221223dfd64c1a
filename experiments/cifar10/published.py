"""Published figures of ResNet-56 on CIFAR-10: pruned or decomposed, and finetuned for many epochs.

As their own tables, or the tables of the later paper named beside them, give them; MACs as shares kept.
"""

from __future__ import annotations

from typing import NamedTuple

NETWORK = "resnet56"
"""The network that the figures are of."""


class Published(NamedTuple):
    """A figure of the literature.

    Attributes:
        method: its name and paper.
        macs: share of the MACs that is kept.
        before: top-1 of the original, in %.
        after: top-1 of the smaller network, in %.
        source: where the figure stands.
    """

    method: str
    macs: float
    before: float
    after: float
    source: str


_PPSM = "PPSM, table 2"

PUBLISHED = (
    Published("HRank (Lin et al. 2020)", 0.50, 93.26, 93.17, _PPSM),
    Published("DMC (Gao et al. 2020)", 0.50, 93.62, 93.69, _PPSM),
    Published("LFPC (He et al. 2020)", 0.471, 93.59, 93.34, _PPSM),
    Published("ResRep (Ding et al. 2021)", 1 / 2.12, 93.71, 93.71, "Torch-Pruning, benchmarks"),
    Published("PPSM (2022)", 0.454, 93.44, 93.57, _PPSM),
    Published("LRF-60 (Joo et al. 2021)", 0.261, 93.45, 93.19, _PPSM),
    Published("HRank (Lin et al. 2020)", 0.259, 93.26, 90.72, _PPSM),
    Published("PPSM (2022)", 0.2438, 93.44, 93.22, _PPSM),
)
"""PPSM: Computational Intelligence and Neuroscience 2022, article 7775419. Torch-Pruning's benchmarks:
github.com/VainF/Torch-Pruning, folder benchmarks."""
