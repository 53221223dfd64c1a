"""Count the MACs and parameters of an expression from its leaves.

One MAC is one multiplication with its addition. Only the products of kernels with inputs are
counted: neither biases, nor the additions between the branches of a ``Sum``. That is the
convention of ``torch.utils.flop_counter``, which reports twice this number.
"""

from collections.abc import Sequence
from math import prod

from decompose.algebra.expressions import Chain, Conv, Expression, leaves


def output_size(expression: Expression, input_size: Sequence[int]) -> tuple[int, ...]:
    """Spatial size of the output for a spatial input size, in pixels along each axis.

    Raises:
        ValueError: the kernel is larger than the padded input, or the branches of a sum differ.

    Example:
        >>> import torch
        >>> output_size(Conv(torch.empty(8, 3, 3, 3)), (32, 24))
        (30, 22)
    """
    if isinstance(expression, Conv):
        return _conv_output_size(expression, input_size)
    if isinstance(expression, Chain):
        size = tuple(input_size)
        for part in expression.parts:
            size = output_size(part, size)
        return size
    sizes = {output_size(part, input_size) for part in expression.parts}
    if len(sizes) > 1:
        raise ValueError(f"the branches of a sum give outputs of different sizes: {sorted(sizes)}")
    return sizes.pop()


def macs(expression: Expression, input_size: Sequence[int]) -> int:
    """Count the multiply-accumulates for one input.

    Args:
        expression: any.
        input_size: pixels along each spatial axis; empty for a fully connected layer.

    Raises:
        ValueError: as ``output_size``.

    Example:
        >>> import torch
        >>> macs(Conv(torch.empty(8, 3, 3, 3)), (32, 24))  # 30 x 22 x 8 x 3 x 3 x 3
        142560
    """
    if isinstance(expression, Conv):
        # A transposed kernel is applied once an input pixel, an ordinary one once an output pixel.
        transposed = expression.geometry.transposed
        positions = input_size if transposed else output_size(expression, input_size)
        return prod(positions) * expression.weight.numel()
    if isinstance(expression, Chain):
        total, size = 0, tuple(input_size)
        for part in expression.parts:
            total += macs(part, size)
            size = output_size(part, size)
        return total
    return sum(macs(part, input_size) for part in expression.parts)


def params(expression: Expression) -> int:
    """Count the weights and biases.

    Example:
        >>> import torch
        >>> params(Conv(torch.empty(8, 3, 3, 3), torch.empty(8)))
        224
    """
    return sum(
        conv.weight.numel() + (0 if conv.bias is None else conv.bias.numel())
        for conv in leaves(expression)
    )


def _conv_output_size(conv: Conv, input_size: Sequence[int]) -> tuple[int, ...]:
    g = conv.geometry
    if g.pooled:
        return (1,) * g.num_axes
    size = []
    for axis, (pixels, taps) in enumerate(zip(input_size, conv.kernel_size, strict=True)):
        reach = g.dilation[axis] * (taps - 1)
        before, after = g.padding[axis]
        if g.transposed:
            upsampled = (pixels - 1) * g.stride[axis] + 1
            size.append(upsampled + reach - before - after + g.output_padding[axis])
        else:
            size.append((pixels + before + after - reach - 1) // g.stride[axis] + 1)
    if any(pixels < 1 for pixels in size):
        raise ValueError(
            f"a kernel of size {conv.kernel_size} does not fit an input of {tuple(input_size)}"
        )
    return tuple(size)
