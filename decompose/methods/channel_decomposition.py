"""Channel decomposition: fewer filters, and a pointwise kernel that mixes them into the outputs.

Zhang, Zou, He, Sun: "Accelerating Very Deep Convolutional Networks for Classification and
Detection", TPAMI 2016 (arXiv 1505.06798), section 3.1, in its data-free form: the kernel as a
matrix ``M[o, (i, taps)]`` of rank r, so that Chain(k x k I->r, 1 x 1 r->O) holds it, by one SVD,
O(O I K min(O, I K)). With a kernel of one tap, and for fully connected layers, that is the plain
SVD of their matrix (Denton et al. 2014, arXiv 1404.0736).
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from decompose.algebra import Chain, Conv, Expression, Geometry
from decompose.methods.low_rank import LowRankMethod


class ChannelDecomposition(LowRankMethod):
    """Channel decomposition: Chain(k x k I->r, 1 x 1 r->O)."""

    name = "channel"
    title = "channel decomposition"

    def why_not(self, conv: Conv) -> str | None:
        """Refuse depthwise kernels, whose groups have a rank of one already."""
        return "depthwise" if conv.is_depthwise else None

    def unfold(self, conv: Conv) -> Tensor:
        """Unfold the kernel along its outputs, ``(groups, O / groups, I / groups * K)``."""
        return conv.weight.unflatten(0, (conv.groups, -1)).flatten(2)

    def _fold(self, conv: Conv, a: Tensor, b: Tensor) -> Expression:
        filters = b.flatten(0, 1).reshape(-1, *conv.weight.shape[1:])
        mixing = a.flatten(0, 1).reshape(
            conv.out_channels, a.shape[2], *(1 for _ in conv.kernel_size)
        )
        return Chain(
            replace(conv, weight=filters.contiguous(), bias=None),
            Conv(
                mixing.contiguous(),
                conv.bias,
                Geometry.pointwise(conv.geometry.num_axes),
                conv.groups,
            ),
        )
