"""Principal components of a layer's kernels, the centred counterpart of network decoupling.

The spatial kernels that share one depthwise channel are the observations, their K taps the
variables. PCA takes their mean kernel out first; the components that remain are then the right
singular vectors of the centred slice, where network decoupling takes those of the slice itself.
The SVD is the better truncation, since it need not spend a term on the mean; the explained
variance is how Haase and Amthor ("Rethinking Depthwise Separable Convolutions", CVPR 2020,
arXiv 2003.13549) show that the kernels of a filter are correlated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from decompose.algebra import Conv, at_least_float32
from decompose.methods.network_decoupling import NetworkDecoupling


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """PCA of S slices of N kernels with K taps each, R = min(N, K) components.

    Attributes:
        mean: mean kernel, ``(S, *kernel_size)``.
        components: unit kernels, ``(S, R, *kernel_size)``, by falling variance.
        explained_variance: variance along each component, over N - 1, ``(S, R)``.

    Example:
        >>> from decompose.methods.network_decoupling import PointwiseDepthwise
        >>> found = principal_components(Conv(torch.ones(4, 8, 3, 3)), PointwiseDepthwise())
        >>> found.mean.shape, found.components.shape
        (torch.Size([4, 3, 3]), torch.Size([4, 8, 3, 3]))
    """

    mean: Tensor
    components: Tensor
    explained_variance: Tensor

    @property
    def explained_variance_ratio(self) -> Tensor:
        """Share of a slice's variance that each component holds, ``(S, R)``.

        Zero in a slice whose kernels are all alike.
        """
        total = self.explained_variance.sum(dim=1, keepdim=True)
        # The rounding of kernels that are all alike is no variance.
        noise = torch.finfo(total.dtype).eps ** 2 * self.mean.flatten(1).square().sum(
            1, keepdim=True
        )
        return torch.where(
            total > 100 * noise, self.explained_variance / total, torch.zeros_like(total)
        )

    def cumulative_ratio(self) -> Tensor:
        """Share of the variance that the first components hold, ``(R,)``, float64.

        Averaged, as network decoupling's energy, over the slices that have any variance; 1 where
        none has.
        """
        ratios = self.explained_variance_ratio.double()
        ratios = ratios[ratios[:, 0] > 0]
        return ratios.cumsum(dim=1).mean(dim=0) if len(ratios) else ratios.new_ones(ratios.shape[1])


def principal_components(conv: Conv, order: NetworkDecoupling) -> PrincipalComponents:
    """PCA of the kernels of every depthwise channel, all slices in one batched call.

    Args:
        conv: the convolution; half precision is computed in float32.
        order: PW+DW takes the kernels of each output channel, DW+PW those of each input channel.

    Example:
        >>> from decompose.methods.network_decoupling import PointwiseDepthwise
        >>> found = principal_components(Conv(torch.randn(4, 8, 3, 3)), PointwiseDepthwise())
        >>> round(found.cumulative_ratio()[-1].item(), 3)  # all components hold all variance
        1.0
    """
    slices = at_least_float32(order.slices(conv))
    mean = slices.mean(dim=1, keepdim=True)
    _, sigma, vt = torch.linalg.svd(slices - mean, full_matrices=False)
    degrees_of_freedom = max(slices.shape[1] - 1, 1)
    return PrincipalComponents(
        mean=mean.squeeze(1).unflatten(1, conv.kernel_size),
        components=vt.unflatten(2, conv.kernel_size),
        explained_variance=sigma.square() / degrees_of_freedom,
    )
