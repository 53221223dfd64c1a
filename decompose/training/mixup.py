"""Mix images in pairs (mixup, Zhang et al. 2018, arXiv 1710.09412).

Of images that it was trained on an original says little more than their classes; between them it shows how
it decides, and a smaller model learns that from it (Beyer et al. 2022, arXiv 2106.05237).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Mixture:
    """Which images of a batch are mixed, and how much of each.

    Attributes:
        partners: index of the other image, ``(batch,)`` int64.
        shares: of the image itself, ``(batch,)`` in [0.5, 1].
    """

    partners: Tensor
    shares: Tensor

    @classmethod
    def drawn(cls, num_images: int, alpha: float, device: torch.device) -> Mixture:
        """Draw partners and shares with torch's random numbers.

        Args:
            num_images: of the batch.
            alpha: of the beta distribution of shares: 1 for all shares alike, less for purer images.
            device: of the images.
        """
        shares = torch.distributions.Beta(alpha, alpha).sample((num_images,))
        partners = torch.randperm(num_images)
        return cls(partners.to(device), torch.maximum(shares, 1 - shares).to(device))

    def applied(self, images: Tensor) -> Tensor:
        """The mixed images, ``(batch, ...)``."""
        shares = self.shares.to(images.dtype).view(-1, *[1] * (images.ndim - 1))
        return images * shares + images[self.partners] * (1 - shares)
