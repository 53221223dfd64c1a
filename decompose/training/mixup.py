"""Mix the images of a batch in pairs (Zhang et al. 2018, arXiv 1710.09412).

Between images a student still differs from its teacher where both are right on the images themselves, so
that there is more to learn there (Beyer et al. 2022, arXiv 2106.05237, section 3).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Beta


class Mixed(NamedTuple):
    """A batch whose images are mixed in pairs.

    Attributes:
        images: ``(batch, ...)``, each ``share`` of itself and the rest of another.
        others: index of the other image of each, ``(batch,)`` int64.
        share: of the first image, at least a half.
    """

    images: Tensor
    others: Tensor
    share: float


def mixup(images: Tensor, concentration: float) -> Mixed:
    """Mix each image with another of its batch, all by one share, drawn by torch's own generator.

    Args:
        images: ``(batch, ...)``.
        concentration: positive; both parameters of the Beta distribution that the share is drawn from: 1
            for all shares alike, less for shares near 0 and 1.

    Example:
        >>> mixed = mixup(torch.rand(4, 3, 8, 8), 1.0)
        >>> mixed.images.shape, mixed.share >= 0.5
        (torch.Size([4, 3, 8, 8]), True)
    """
    share = float(Beta(concentration, concentration).sample())
    share = max(share, 1 - share)
    others = torch.randperm(len(images)).to(images.device)
    return Mixed(torch.lerp(images[others], images, share), others, share)
