"""Move padding that is put before an expression into its leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from decompose.algebra.expressions import Chain, Conv, Expression, Sum, leaves


def with_input_padding(expression: Expression, padding: Sequence[tuple[int, int]]) -> Expression:
    """Pad the input of an expression with zeros, by its own leaves.

    Leaves that visit every pixel and add no bias turn zeros into zeros, so along each axis the first
    leaf that does more can pad for them.

    Args:
        expression: ordinary convolutions that pad with zeros.
        padding: pixels added to its input, ``(before, after)`` for each axis.
    """
    for axis, widths in enumerate(padding):
        if any(widths):
            expression = _padded(expression, axis, widths)
    return expression


def _padded(expression: Expression, axis: int, widths: tuple[int, int]) -> Expression:
    if isinstance(expression, Conv):
        padding = list(expression.geometry.padding)
        padding[axis] = (padding[axis][0] + widths[0], padding[axis][1] + widths[1])
        return replace(expression, geometry=replace(expression.geometry, padding=tuple(padding)))
    if isinstance(expression, Sum):
        return Sum(*(_padded(part, axis, widths) for part in expression.parts))
    parts = list(expression.parts)
    able = (index for index, part in enumerate(parts) if _does_more(part, axis))
    index = next(able, len(parts) - 1)
    parts[index] = _padded(parts[index], axis, widths)
    return Chain(*parts)


def _does_more(part: Expression, axis: int) -> bool:
    return any(leaf.is_spatial(axis) or leaf.bias is not None for leaf in leaves(part))
