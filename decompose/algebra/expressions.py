"""Conv, Chain and Sum: convolutions as values, and the expressions made of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


@dataclass(frozen=True)
class Geometry:
    """How a kernel moves over its input. Every tuple has one entry for each spatial axis.

    Attributes:
        stride: steps in pixels.
        padding: pixels added (for a transposed convolution: cut off the output), as
            ``(before, after)``.
        dilation: distance between neighbouring taps in pixels.
        padding_mode: one of ``PADDING_MODES``.
        transposed: whether the kernel scatters (``ConvTranspose``) instead of gathering.
        output_padding: extra output pixels at the end; only for transposed convolutions.
        pooled: whether the kernel, of one tap, reads the mean over all pixels, once, instead of each.

    Raises:
        ValueError: the numbers of axes differ, or a transposed convolution pads otherwise than with zeros
            and alike on both sides, or a pooled one strides, pads or is transposed.

    Example:
        >>> geometry = Geometry(stride=(2, 2), padding=((1, 1), (1, 1)), dilation=(1, 1))
        >>> geometry.num_axes, geometry.is_asymmetric
        (2, False)
        >>> geometry.along([0]).stride
        (2, 1)
    """

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    padding_mode: str = "zeros"
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    pooled: bool = False

    def __post_init__(self) -> None:
        if not self.output_padding:
            object.__setattr__(self, "output_padding", (0,) * self.num_axes)
        axes = {len(self.stride), len(self.padding), len(self.dilation), len(self.output_padding)}
        if len(axes) != 1:
            raise ValueError(f"geometry fields differ in their number of axes: {self}")
        if self.padding_mode not in PADDING_MODES:
            raise ValueError(
                f"padding mode {self.padding_mode!r} is none of {', '.join(PADDING_MODES)}"
            )
        if self.transposed and (self.padding_mode != "zeros" or self.is_asymmetric):
            raise ValueError("a transposed convolution pads with zeros, alike on both sides")
        if self.pooled and (self.transposed or not all(map(self._is_still, range(self.num_axes)))):
            raise ValueError("a convolution of the mean over all pixels neither strides nor pads")

    @classmethod
    def pointwise(cls, num_axes: int) -> Geometry:
        """The geometry that visits every pixel once: stride 1, no padding."""
        return cls((1,) * num_axes, ((0, 0),) * num_axes, (1,) * num_axes)

    def along(self, axes: Collection[int]) -> Geometry:
        """Keep the movement along some axes; visit every pixel along the others."""

        def pick(values: tuple, still: object) -> tuple:
            return tuple(v if axis in axes else still for axis, v in enumerate(values))

        return replace(
            self,
            stride=pick(self.stride, 1),
            padding=pick(self.padding, (0, 0)),
            dilation=pick(self.dilation, 1),
            output_padding=pick(self.output_padding, 0),
        )

    @property
    def num_axes(self) -> int:
        """Number of spatial axes."""
        return len(self.stride)

    @property
    def is_asymmetric(self) -> bool:
        """Whether some axis is padded differently before and after."""
        return any(before != after for before, after in self.padding)

    def is_trivial(self, axis: int) -> bool:
        """Whether a kernel of size 1 leaves this axis as it is."""
        return not self.pooled and self._is_still(axis)

    def _is_still(self, axis: int) -> bool:
        return (self.stride[axis], self.padding[axis], self.output_padding[axis]) == (1, (0, 0), 0)


@dataclass(frozen=True, eq=False)
class Conv:
    """One convolution; without spatial axes, a fully connected layer.

    The kernel has one layout, whether the convolution is transposed or not; torch's other
    layout for transposed kernels is made where torch is called.

    Attributes:
        weight: ``(out_channels, in_channels / groups, *kernel_size)``.
        bias: ``(out_channels,)``, or ``None``.
        geometry: stride, padding, dilation; ``None`` stands for the pointwise one.
        groups: number of blocks that the channels fall into.

    Raises:
        ValueError: the shapes do not fit together.

    Example:
        >>> import torch
        >>> conv = Conv(torch.randn(16, 4, 3, 3), torch.zeros(16), groups=2)
        >>> conv.out_channels, conv.in_channels, conv.kernel_size
        (16, 8, (3, 3))
        >>> Conv(torch.randn(10, 64)).kernel_size  # a fully connected layer
        ()
    """

    weight: Tensor
    bias: Tensor | None = None
    geometry: Geometry = None  # type: ignore[assignment]  # __post_init__ always sets it
    groups: int = 1

    def __post_init__(self) -> None:
        if self.geometry is None:
            object.__setattr__(self, "geometry", Geometry.pointwise(self.weight.ndim - 2))
        if self.geometry.num_axes != self.weight.ndim - 2:
            raise ValueError(
                f"a kernel of shape {tuple(self.weight.shape)} does not move over "
                f"{self.geometry.num_axes} axes"
            )
        if self.geometry.pooled and not self.is_pointwise:
            raise ValueError("a convolution of the mean over all pixels has one tap")
        if self.out_channels % self.groups:
            raise ValueError(
                f"{self.out_channels} output channels do not fall into {self.groups} groups"
            )
        if self.bias is not None and self.bias.shape != (self.out_channels,):
            raise ValueError(
                f"bias of shape {tuple(self.bias.shape)} for {self.out_channels} output channels"
            )

    @property
    def out_channels(self) -> int:
        """Number of output channels, O."""
        return self.weight.shape[0]

    @property
    def in_channels(self) -> int:
        """Number of input channels, I."""
        return self.weight.shape[1] * self.groups

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Taps along each spatial axis."""
        return tuple(self.weight.shape[2:])

    @property
    def taps_last(self) -> Tensor:
        """The kernel with its taps as one axis, ``(out_channels, in_channels / groups, taps)``."""
        return self.weight.reshape(*self.weight.shape[:2], -1)

    @property
    def num_taps(self) -> int:
        """Taps of one kernel, over all axes."""
        return prod(self.kernel_size)

    @property
    def is_pointwise(self) -> bool:
        """Whether the kernel covers a single pixel."""
        return self.num_taps == 1

    @property
    def is_depthwise(self) -> bool:
        """Whether every group has a single input channel."""
        return self.weight.shape[1] == 1 and self.groups > 1

    def without_weights(self) -> Conv:
        """The same convolution on the meta device, of which costs can be counted."""
        bias = None if self.bias is None else self.bias.to("meta")
        return replace(self, weight=self.weight.to("meta"), bias=bias)

    def is_spatial(self, axis: int) -> bool:
        """Whether the convolution does more to this axis than visit its pixels."""
        return self.kernel_size[axis] > 1 or not self.geometry.is_trivial(axis)


@dataclass(frozen=True, eq=False, init=False)
class Chain:
    """One part after another: ``Chain(a, b)`` is b applied to a's output.

    Attributes:
        parts: the expressions, in the order in which they run; at least one.

    Example:
        >>> import torch
        >>> chain = Chain(Conv(torch.randn(4, 8, 3, 1)), Conv(torch.randn(16, 4, 1, 3)))
        >>> len(chain.parts)
        2
    """

    parts: tuple[Expression, ...]

    def __init__(self, *parts: Expression) -> None:
        object.__setattr__(self, "parts", _non_empty(parts))


@dataclass(frozen=True, eq=False, init=False)
class Sum:
    """Parts side by side on one input, with their outputs added.

    Attributes:
        parts: the branches; at least one.

    Example:
        >>> import torch
        >>> branches = Sum(Conv(torch.randn(4, 8, 3, 3)), Conv(torch.randn(4, 8, 3, 3)))
        >>> len(branches.parts)
        2
    """

    parts: tuple[Expression, ...]

    def __init__(self, *parts: Expression) -> None:
        object.__setattr__(self, "parts", _non_empty(parts))


Expression = Conv | Chain | Sum


def _non_empty(parts: tuple[Expression, ...]) -> tuple[Expression, ...]:
    if not parts:
        raise ValueError("an expression needs at least one part")
    return parts


def leaves(expression: Expression) -> Iterator[Conv]:
    """The convolutions of an expression, in the order in which they are written.

    Example:
        >>> import torch
        >>> tall, wide = Conv(torch.randn(4, 8, 3, 1)), Conv(torch.randn(16, 4, 1, 3))
        >>> [leaf.kernel_size for leaf in leaves(Sum(Chain(tall, wide)))]
        [(3, 1), (1, 3)]
    """
    if isinstance(expression, Conv):
        yield expression
    else:
        for part in expression.parts:
            yield from leaves(part)


def map_leaves(function: Callable[[Conv], Expression], expression: Expression) -> Expression:
    """Replace every leaf of an expression by ``function(leaf)``.

    Args:
        function: from a convolution to the expression that replaces it.
        expression: any.

    Example:
        >>> import torch
        >>> chain = Chain(Conv(torch.randn(4, 8)), Conv(torch.randn(2, 4)))
        >>> map_leaves(Conv.without_weights, chain).parts[0].weight.device.type
        'meta'
    """
    if isinstance(expression, Conv):
        return function(expression)
    return type(expression)(*(map_leaves(function, part) for part in expression.parts))


def owned(leaf: Conv) -> Conv:
    """Give a leaf memory of its own: a slice would keep all that it is cut from alive, and in a file.

    Args:
        leaf: any; on the meta device it stays as it is.

    Example:
        >>> import torch
        >>> leaf = Conv(torch.randn(4, 8)[:2])
        >>> owned(leaf).weight.untyped_storage().nbytes() == leaf.weight.nbytes
        True
    """
    if leaf.weight.is_meta:
        return leaf
    bias = None if leaf.bias is None else leaf.bias.clone()
    return replace(leaf, weight=leaf.weight.clone(memory_format=torch.contiguous_format), bias=bias)
