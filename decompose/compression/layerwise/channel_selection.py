"""Select the input channels that a layer keeps by the LASSO, and refit its kernel to them.

He, Zhang, Sun: "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017
(arXiv 1707.06168), eq. 2. With ``Z_i = X_i W_i^T`` the part of the output due to channel i, and
y the original's output, the channels kept are those with a weight in

    min over beta  |y - sum_i beta_i Z_i|^2 / 2N + lambda |beta|_1,

with lambda so large that no more channels than asked for have one; scikit-learn's least-angle regression
gives the solutions for all lambda at once. Then the kernel of the kept channels is refitted to y by least
squares, pulled towards the old kernel by a ridge. The paper holds every |W_i| at 1, to separate W from beta
where both are fitted in turns; here beta is fitted once, with W as it was trained.

Both need no more than sums over positions: those of ``Z_i . Z_j`` are the second moments of the patches
times those of the kernel, entry by entry, O(n (I K)^2) in all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from decompose.algebra import Conv, keep_inputs, with_last_weights
from decompose.compression.layerwise.sampling import Samples
from decompose.compression.reconstruction.ridge import Moments, ridge_fit
from decompose.utils.errors import DecomposeError
from decompose.utils.optional_dependencies import required

RIDGE = 1e-2


def moments(samples: Samples) -> Moments:
    """Sums over samples for selection and refit, of one group."""
    return Moments.of(samples.patches.flatten(1).unsqueeze(0), samples.targets.unsqueeze(0)).cpu()


def select_inputs(conv: Conv, rows: Moments, num_kept: int) -> Tensor:
    """Select input channels by the LASSO.

    Args:
        conv: of one group.
        rows: the layer's ``moments``.
        num_kept: number of channels to keep.

    Returns:
        Their indices, ``(num_kept,)`` int64, rising.

    Raises:
        DecomposeError: scikit-learn is not installed, or ``num_kept`` is out of bounds.
    """
    if not 1 <= num_kept <= conv.in_channels:
        raise DecomposeError(f"of {conv.in_channels} channels {num_kept} cannot be kept")
    linear_model = required("sklearn.linear_model", "scikit-learn", "demo")
    gram, products = channel_products(conv, rows)
    scale = gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
    _, _, path = linear_model.lars_path_gram(
        (products / scale).numpy(),
        (gram / scale).numpy(),
        n_samples=rows.count,
        method="lasso",
        max_iter=2 * conv.in_channels,
    )
    weights = torch.from_numpy(path)  # (I, steps)
    fitting = (weights != 0).sum(0) <= num_kept
    held = weights[:, int(fitting.nonzero().max())].abs()
    # Where the path ends early, channels without a weight follow by their contribution.
    rank = torch.where(held > 0, 2 + held / held.max().clamp_min(1e-30), 0.0)
    rank = rank + gram.diagonal() / gram.diagonal().max().clamp_min(1e-30)
    return rank.topk(num_kept).indices.sort().values


def refit_inputs(conv: Conv, rows: Moments, kept: Tensor, *, ridge: float = RIDGE) -> Conv:
    """Restrict a convolution to some of its input channels, and refit it.

    Args:
        conv: of one group.
        rows: the layer's ``moments``.
        kept: indices of the channels that stay, ``(n,)`` int64.
        ridge: pull towards the kernel as it is.
    """
    columns = (kept.unsqueeze(1) * conv.num_taps + torch.arange(conv.num_taps)).flatten()
    some = Moments(
        rows.count,
        rows.z[:, columns],
        rows.y,
        rows.zz[:, columns][:, :, columns],
        rows.yz[:, :, columns],
        rows.yy,
    )
    smaller = keep_inputs(conv, kept)
    fit = ridge_fit(some, smaller.weight.flatten(1).unsqueeze(0).double().cpu(), ridge)
    weight = conv.weight
    pruned = with_last_weights(smaller, fit.weights.to(weight), fit.bias.flatten().to(weight))
    assert isinstance(pruned, Conv)
    return pruned


def channel_products(conv: Conv, rows: Moments) -> tuple[Tensor, Tensor]:
    """Products of the channels' parts of the output, summed over positions.

    Args:
        conv: of one group.
        rows: the layer's ``moments``.

    Returns:
        ``Z_i . Z_j``, ``(I, I)``, and ``Z_i . y``, ``(I,)``, float64.
    """
    weight = conv.weight.flatten(1).double().cpu()
    blocks = (conv.in_channels, conv.num_taps)
    gram = (rows.zz[0] * (weight.T @ weight)).reshape(*blocks, *blocks).sum((1, 3))
    # The bias is no channel's part.
    unbiased = rows.yz[0]
    if conv.bias is not None:
        unbiased = unbiased - conv.bias.double().cpu().unsqueeze(1) * rows.z
    return gram, (unbiased * weight).sum(0).reshape(blocks).sum(1)
