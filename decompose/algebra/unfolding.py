"""Unfold inputs into patches, so that a convolution is a matrix product.

With the patches of an input as rows p, of I k_1 ... k_N numbers each, and the kernel as a matrix W
of one row an output channel, the output at a position is ``W p + b``. So the second moments of the
output of any kernel, or of any expression instead of it, follow from those of the patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from decompose.algebra.execution import padded
from decompose.algebra.expressions import Conv, Expression, Geometry, map_leaves

_FEW = 32
"""Positions of one input that are left before inputs are left out."""


def patches(conv: Conv, x: Tensor, step: int = 1) -> Tensor:
    """Unfold an input into the patches that a convolution's kernel multiplies.

    Args:
        conv: not transposed, since such a kernel scatters and reads no patch.
        x: ``(batch, I, *input_size)``; of a fully connected layer ``(..., I)``.
        step: distance along each axis between the output positions whose patches are taken, in pixels.

    Returns:
        ``(num_positions, I, *kernel_size)``, in the order of ``strided_outputs``.

    Raises:
        ValueError: the convolution is transposed.

    Example:
        >>> patches(Conv(torch.randn(8, 3, 3, 3)), torch.randn(2, 3, 6, 6), step=2).shape
        torch.Size([8, 3, 3, 3])
    """
    if conv.geometry.transposed:
        raise ValueError("a transposed convolution has no patches")
    if conv.geometry.num_axes == 0:
        return x.reshape(-1, conv.in_channels)
    # (batch, I, *output_size, *kernel_size)
    seen = _unfolded(conv, x, step)
    return seen.movedim(1, conv.geometry.num_axes + 1).flatten(0, conv.geometry.num_axes)


def grouped_patches(conv: Conv, x: Tensor, step: int = 1) -> Tensor:
    """Unfold an input into the patches of each group, as rows.

    Args:
        conv: not transposed.
        x: as for ``patches``.
        step: as for ``patches``.

    Returns:
        ``(groups, num_positions, I / groups * num_taps)``.

    Raises:
        ValueError: the convolution is transposed.

    Example:
        >>> depthwise = Conv(torch.randn(3, 1, 3, 3), groups=3)
        >>> grouped_patches(depthwise, torch.randn(2, 3, 6, 6), step=2).shape
        torch.Size([3, 8, 9])
    """
    axes, groups = conv.geometry.num_axes, conv.groups
    if axes == 0 or conv.geometry.transposed:
        rows = patches(conv, x, step)
        return rows.reshape(len(rows), groups, -1).transpose(0, 1)
    # (batch, groups, I / groups, *output_size, *kernel_size)
    unfolded = _unfolded(conv, x, step).unflatten(1, (groups, -1))
    # Copied once, along rows of the image, which lie together.
    columns = unfolded.movedim((1, 2, *range(3 + axes, 3 + 2 * axes)), tuple(range(2 + axes)))
    return columns.flatten(2 + axes).flatten(1, 1 + axes).mT


def patches_at(conv: Conv, x: Tensor, chosen: Tensor) -> Tensor:
    """The patches at chosen output positions of each input.

    Args:
        conv: with one axis at least, not transposed.
        x: ``(batch, I, *input_size)``.
        chosen: positions of the output, counted along its last axis first, ``(batch, n)``, int64.

    Returns:
        ``(batch * n, I, *kernel_size)``, input after input.

    Example:
        >>> chosen = torch.tensor([[0, 15], [3, 4]])
        >>> patches_at(Conv(torch.randn(8, 3, 3, 3)), torch.randn(2, 3, 6, 6), chosen).shape
        torch.Size([4, 3, 3, 3])
    """
    num_axes = conv.geometry.num_axes
    seen = _unfolded(conv, x, 1).movedim(1, num_axes + 1)
    return seen[_grid(chosen, seen.shape[1 : num_axes + 1])].flatten(0, 1)


def outputs_at(conv: Conv, y: Tensor, chosen: Tensor) -> Tensor:
    """The outputs at chosen positions, as ``patches_at`` takes the patches.

    Args:
        conv: whose output it is; with one axis at least.
        y: ``(batch, O, *output_size)``.
        chosen: ``(batch, n)``, int64.

    Returns:
        ``(batch * n, O)``, input after input.

    Example:
        >>> chosen = torch.tensor([[0, 15], [3, 4]])
        >>> outputs_at(Conv(torch.randn(8, 3, 3, 3)), torch.randn(2, 8, 4, 4), chosen).shape
        torch.Size([4, 8])
    """
    outputs = y.movedim(1, -1)
    return outputs[_grid(chosen, outputs.shape[1:-1])].flatten(0, 1)


def strided_outputs(conv: Conv, y: Tensor, step: int = 1) -> Tensor:
    """The outputs at the positions of ``patches``, as rows.

    Args:
        conv: whose output it is.
        y: ``(batch, O, *output_size)``; of a fully connected layer ``(..., O)``.
        step: distance of the positions, in output pixels.

    Returns:
        ``(num_positions, O)``.

    Example:
        >>> strided_outputs(Conv(torch.randn(8, 3, 3, 3)), torch.randn(2, 8, 4, 4), step=2).shape
        torch.Size([8, 8])
    """
    num_axes = conv.geometry.num_axes
    if num_axes == 0:
        return y.reshape(-1, conv.out_channels)
    grid = (slice(None), slice(None), *[slice(None, None, step)] * num_axes)
    return y[grid].movedim(1, -1).flatten(0, num_axes)


def on_patches(expression: Expression) -> Expression:
    """The expression for single patches instead of inputs: no stride, padding or dilation.

    Args:
        expression: any.

    Returns:
        One that maps ``(N, I, *kernel_size)`` to ``(N, O, 1, ...)``.

    Example:
        >>> from decompose.algebra.execution import run
        >>> conv = Conv(torch.randn(8, 3, 3, 3))
        >>> run(on_patches(conv), patches(conv, torch.randn(1, 3, 6, 6))).shape
        torch.Size([16, 8, 1, 1])
    """

    def still(conv: Conv) -> Conv:
        return replace(conv, geometry=Geometry.pointwise(conv.geometry.num_axes))

    return map_leaves(still, expression)


class Subsampling(NamedTuple):
    """Strides at which positions of an output are sampled, since neighbours are nearly alike.

    Attributes:
        inputs: stride over the inputs of a batch.
        positions: stride along each axis, in output pixels.

    Example:
        >>> Subsampling(inputs=2, positions=4)
        Subsampling(inputs=2, positions=4)
    """

    inputs: int
    positions: int


def subsampling_for(output_shape: Sequence[int], num_axes: int, most: int) -> Subsampling:
    """Choose strides that leave about ``most`` positions of an output, or fewer.

    Positions of one input are thinned out along the axes. Of a batch, such as the boxes of a detector,
    inputs are left out too, once few positions of each remain.

    Args:
        output_shape: ``(batch, O, *output_size)``; of a fully connected layer all stay.
        num_axes: spatial axes of the convolution.
        most: positions to leave, more or less.

    Example:
        >>> subsampling_for((1, 64, 56, 56), num_axes=2, most=512)
        Subsampling(inputs=1, positions=3)
    """
    if num_axes == 0:
        return Subsampling(1, 1)
    batch, size = output_shape[0], output_shape[-num_axes:]
    step = 1
    while _num_positions(size, step) > max(most // max(batch, 1), min(most, _FEW)):
        step += 1
    return Subsampling(max(1, batch * _num_positions(size, step) // most), step)


def _num_positions(output_size: Sequence[int], step: int) -> int:
    count = 1
    for pixels in output_size:
        count *= -(-pixels // step)
    return count


def _unfolded(conv: Conv, x: Tensor, step: int) -> Tensor:
    """View the padded input as ``(batch, I, *output_size, *kernel_size)``."""
    geometry = conv.geometry
    x = padded(conv, x)
    for axis, (taps, dilation) in enumerate(zip(conv.kernel_size, geometry.dilation, strict=True)):
        reach = dilation * (taps - 1) + 1
        x = x.unfold(axis + 2, reach, step * geometry.stride[axis])[..., ::dilation]
    return x


def _grid(chosen: Tensor, size: Sequence[int]) -> tuple[Tensor, ...]:
    """Indices of the batch and of every axis, ``(batch, n)`` each."""
    batch = torch.arange(len(chosen), device=chosen.device).unsqueeze(1)
    return batch, *torch.unravel_index(chosen, tuple(size))
