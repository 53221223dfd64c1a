"""Spatial decomposition: a k x k kernel as a k x 1 kernel and a 1 x k kernel after it.

Jaderberg, Vedaldi, Zisserman: "Speeding up Convolutional Neural Networks with Low Rank Expansions",
BMVC 2014 (arXiv 1405.3866), scheme 2, solved in closed form: the kernel, unfolded to
``M[(i, a), (o, b)] = W[o, i, a, b]``, has the rank-r approximation that Chain(k x 1 I->r, 1 x k
r->O) can hold, by one SVD, O(I O K min(I k_h, O k_w)). In 3-D the first axis is split off and the
others stay together.

Every axis keeps its stride, padding and dilation, on the part that is spatial along it.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from decompose.algebra import Chain, Conv, Expression
from decompose.methods.low_rank import LowRankMethod


class SpatialDecomposition(LowRankMethod):
    """Spatial decomposition: Chain(k x 1 I->r, 1 x k r->O)."""

    name = "spatial"
    title = "spatial decomposition"

    def why_not(self, conv: Conv) -> str | None:
        """Refuse kernels that are one tap wide along all axes but one."""
        return None if sum(taps > 1 for taps in conv.kernel_size) > 1 else "spatial along one axis"

    def unfold(self, conv: Conv) -> Tensor:
        """Unfold the kernel, ``(groups, I / groups * k_h, O / groups * k_w)``."""
        height = conv.kernel_size[0]
        blocks = conv.taps_last.unflatten(0, (conv.groups, -1)).unflatten(3, (height, -1))
        return blocks.permute(0, 2, 3, 1, 4).flatten(3, 4).flatten(1, 2)

    def _fold(self, conv: Conv, a: Tensor, b: Tensor) -> Expression:
        height, *others = conv.kernel_size
        tall = a.unflatten(1, (-1, height)).permute(0, 3, 1, 2).flatten(0, 1)
        wide = b.unflatten(2, (conv.out_channels // conv.groups, -1)).transpose(1, 2).flatten(0, 1)
        axes = range(1, conv.geometry.num_axes)
        return Chain(
            Conv(
                tall.reshape(*tall.shape, *[1] * len(others)).contiguous(),
                geometry=conv.geometry.along([0]),
                groups=conv.groups,
            ),
            replace(
                conv,
                weight=wide.reshape(*wide.shape[:2], 1, *others).contiguous(),
                geometry=conv.geometry.along(axes),
            ),
        )
