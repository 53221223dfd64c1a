"""Expressions restricted to some of their input or output channels.

An output channel that nobody reads goes with the row of the last kernel that writes it; where that
kernel is depthwise, with the channel that it reads as well, and so on backwards.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from decompose.algebra.expressions import Chain, Conv, Expression, Geometry, Sum


def keep_inputs(conv: Conv, kept: Tensor) -> Conv:
    """Restrict a convolution to some of its input channels.

    Args:
        conv: of one group.
        kept: indices of the channels that stay, ``(n,)``, int64.

    Raises:
        ValueError: the channels fall into groups.

    Example:
        >>> import torch
        >>> keep_inputs(Conv(torch.randn(4, 6, 3, 3)), torch.tensor([0, 5])).weight.shape
        torch.Size([4, 2, 3, 3])
    """
    if conv.groups != 1:
        raise ValueError("the input channels of a grouped convolution cannot be chosen one by one")
    return replace(conv, weight=conv.weight.index_select(1, kept.to(conv.weight.device)))


def behind_selection(conv: Conv, kept: Tensor, num_channels: int) -> Chain:
    """Select the channels that a convolution reads first, for inputs that have more of them.

    Args:
        conv: of one group.
        kept: indices of its channels among all, ``(I,)``, int64.
        num_channels: of all.

    Example:
        >>> import torch
        >>> selecting = behind_selection(Conv(torch.randn(4, 2, 3, 3)), torch.tensor([0, 5]), 6)
        >>> [tuple(part.weight.shape) for part in selecting.parts]
        [(2, 6, 1, 1), (4, 2, 3, 3)]
    """
    unit = torch.eye(num_channels).to(conv.weight)[kept.to(conv.weight.device)]
    unit = unit.reshape(*unit.shape, *(1 for _ in conv.kernel_size))
    return Chain(Conv(unit, geometry=Geometry.pointwise(conv.geometry.num_axes)), conv)


def keep_outputs(expression: Expression, kept: Tensor) -> Expression:
    """Restrict an expression to some of its output channels, and compute no others.

    Args:
        expression: whose last kernels have one group, or one channel a group.
        kept: indices of the channels that stay, ``(n,)``, int64.

    Raises:
        ValueError: the last kernel has groups of several channels, or branches share their input.

    Example:
        >>> import torch
        >>> from decompose.algebra import leaves
        >>> chain = Chain(Conv(torch.randn(6, 3, 1, 1)), Conv(torch.randn(6, 1, 3, 3), groups=6))
        >>> [leaf.out_channels for leaf in leaves(keep_outputs(chain, torch.tensor([1, 4])))]
        [2, 2]
    """
    if isinstance(expression, Sum):
        return Sum(*(keep_outputs(part, kept) for part in expression.parts))
    if isinstance(expression, Conv):
        return _keep_rows(expression, kept)
    *before, last = expression.parts
    shorter = keep_outputs(last, kept)
    if isinstance(last, Conv) and last.groups > 1 and before:
        return Chain(keep_outputs(Chain(*before), kept), shorter)
    return Chain(*before, shorter)


def _keep_rows(conv: Conv, kept: Tensor) -> Conv:
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    if conv.groups != 1 and not depthwise:
        raise ValueError("the outputs of a grouped convolution cannot be chosen one by one")
    rows = kept.to(conv.weight.device)
    return replace(
        conv,
        weight=conv.weight.index_select(0, rows),
        bias=None if conv.bias is None else conv.bias.index_select(0, rows),
        groups=len(rows) if depthwise and conv.groups > 1 else 1,
    )
