"""SVD of fully connected layers and pointwise convolutions into two thinner ones.

Denton, Zaremba, Bruna, LeCun, Fergus: "Exploiting Linear Structure Within Convolutional Networks for
Efficient Evaluation", NIPS 2014 (arXiv 1404.0736), section 3: ``W = A B`` with r columns and rows.
"""

from decompose.algebra import Conv
from decompose.methods.channel_decomposition import ChannelDecomposition


class TruncatedSVD(ChannelDecomposition):
    """Chain(1 x 1 I->r, 1 x 1 r->O): channel decomposition where a kernel has one tap."""

    name = "svd"
    title = "SVD of pointwise and fully connected layers"

    def why_not(self, conv: Conv) -> str | None:
        """Refuse kernels of several taps."""
        return super().why_not(conv) if conv.is_pointwise else "spatial"
