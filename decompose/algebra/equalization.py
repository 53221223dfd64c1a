"""Factors whose middle channels are quantised well: their free scale, set by what passes through them.

The channel m between two parts of a chain can be scaled by any s in one and by 1 / s in the other
(``balancing``). A quantiser gives all middle channels one step, by the largest of them, and each kernel
of the part that reads them one step, by its largest weight. So a channel of small range loses its bits
where a weight that reads it has none to lose. With r_m the range of channel m and q_m that of the weights
that read it, both have the same share of their steps for

    s_m = sqrt(q_m / r_m)

(Nagel et al. 2019, arXiv 1906.04721, eq. 11, with the range of what passes in the place of the
first kernel's, which has a step for each output and so minds no scale; that is SmoothQuant's,
Xiao et al. 2022, arXiv 2211.10438, eq. 4). A depthwise part reads every channel by a kernel, and so
by a step, of its own: there ``s_m = 1 / r_m`` costs its weights nothing and makes all channels alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from decompose.algebra.balancing import scaled_inputs, scaled_outputs
from decompose.algebra.dtypes import converted
from decompose.algebra.execution import run
from decompose.algebra.expressions import Chain, Conv, Expression, Sum, leaves

_SMALLEST = 1e-4
"""Channels of a smaller share of the largest range are scaled as if they had this one."""

_NUM_SWEEPS = 20


def middle_ranges(expression: Expression, x: Tensor) -> list[Tensor]:
    """Largest absolute values of the channels between the parts of chains.

    Args:
        expression: of any nesting.
        x: ``(batch, I, *input_size)``; of a fully connected layer ``(..., I)``.

    Returns:
        ``(M,)`` for each place between two parts, in the order in which ``equalized`` takes them.
    """
    if isinstance(expression, Conv):
        return []
    found = []
    for index, part in enumerate(expression.parts):
        found += middle_ranges(part, x)
        if isinstance(expression, Chain) and index + 1 < len(expression.parts):
            x = run(part, x)
            found.append(_range(x, 1 if x.ndim > 2 and _num_axes(part) else -1))
    return found


def equalized(expression: Expression, ranges: Sequence[Tensor]) -> Expression:
    """The expression with middle channels and the weights that read them of ranges alike.

    Args:
        expression: of any nesting, its factors of one dtype; computed in float64, whatever that is.
        ranges: as ``middle_ranges`` gives them; the largest over several inputs.

    Returns:
        One of the same structure and dtype that composes to the same kernel and bias, but for
        rounding. A channel that is never anything but zero, or that nothing reads, is left as it is.

    Examples:
        >>> expression = Chain(Conv(torch.tensor([[4.0], [1.0]])), Conv(torch.tensor([[1.0, 1.0]])))
        >>> ranges = middle_ranges(expression, torch.ones(1, 1))
        >>> [leaf.weight.flatten().tolist() for leaf in leaves(equalized(expression, ranges))]
        [[2.0, 1.0], [2.0, 1.0]]
    """
    dtype = next(leaves(expression)).weight.dtype
    wide = converted(expression, torch.float64)
    return converted(_equalized(wide, iter([r.double() for r in ranges])), dtype)


def _equalized(expression: Expression, ranges: Iterator[Tensor]) -> Expression:
    if isinstance(expression, Conv):
        return expression
    parts: list[Expression] = []
    between: list[Tensor] = []
    for index, part in enumerate(expression.parts):
        parts.append(_equalized(part, ranges))
        if isinstance(expression, Chain) and index + 1 < len(expression.parts):
            between.append(next(ranges))
    if isinstance(expression, Sum):
        return Sum(*parts)
    for _ in range(_NUM_SWEEPS if len(between) > 1 else 1):
        for index, passing in enumerate(between):
            scale = _scale(passing, parts[index + 1])
            parts[index] = scaled_outputs(parts[index], scale)
            parts[index + 1] = scaled_inputs(parts[index + 1], 1 / scale)
            between[index] = passing * scale
    return Chain(*parts)


def _scale(passing: Tensor, reader: Expression) -> Tensor:
    """By how much to scale what passes, ``(M,)``."""
    read = _input_ranges(reader)
    live = (passing > 0) & (read > 0)
    if not live.any():
        return torch.ones_like(passing)
    passing = passing.clamp(min=_SMALLEST * float(passing[live].max()))
    if _reads_each_alone(reader):
        return torch.where(live, 1 / passing, 1.0)
    read = read.clamp(min=_SMALLEST * float(read[live].max()))
    return torch.where(live, (read / passing).sqrt(), 1.0)


def _input_ranges(expression: Expression) -> Tensor:
    """Largest absolute weight that reads each input channel, ``(I,)``."""
    if isinstance(expression, Conv):
        blocks = expression.taps_last.abs().amax(2).unflatten(0, (expression.groups, -1))
        return blocks.amax(1).flatten()
    if isinstance(expression, Chain):
        return _input_ranges(expression.parts[0])
    return torch.stack([_input_ranges(part) for part in expression.parts]).amax(0)


def _reads_each_alone(expression: Expression) -> bool:
    """Whether each kernel that reads the input reads one channel of it."""
    if isinstance(expression, Conv):
        return expression.weight.shape[1] == 1
    if isinstance(expression, Chain):
        return _reads_each_alone(expression.parts[0])
    return all(map(_reads_each_alone, expression.parts))


def _num_axes(expression: Expression) -> int:
    return next(leaves(expression)).geometry.num_axes


def _range(x: Tensor, axis: int) -> Tensor:
    return x.abs().movedim(axis, 0).flatten(1).amax(1)
