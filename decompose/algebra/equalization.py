"""Equalise the factors of an expression, so that their weights and middle channels quantise well.

The channel m between two parts of a chain can be scaled by any s in one and by 1 / s in the other
(``balancing``). A quantiser gives all middle channels one step, by the largest of them, and each kernel
o of the part that reads them one step, by its largest weight. With r_m the range of channel m and b the
reading kernels, the squared error of the output is in proportion to

    (max_m s_m r_m)^2 sum_om (b_om / s_m)^2  +  sum_o (max_m |b_om| / s_m)^2 sum_m (c s_m r_m)^2,

c being the root mean square of a channel over its range. The first part's kernels have a step for each
middle channel and mind no scale. With q_m = max_o |b_om|, the scales that are tried are
``q_m^(1-a) / r_m^a``: all weights alike (a = 0), all channels alike (a = 1), and between a = 1/2, where
both have the same share of their steps (Nagel et al. 2019, arXiv 1906.04721, eq. 11, with the range of
the channels instead of the first kernel's; a is SmoothQuant's migration strength, Xiao et al. 2022, arXiv
2211.10438, eq. 4). A depthwise part reads every channel by a kernel of its own: there a = 1 is best.
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

_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)

_MEAN_SQUARE = 1 / 9
"""Of a channel over its squared range: that of a normal distribution whose range is three deviations."""

_NUM_SWEEPS = 3


def middle_ranges(expression: Expression, x: Tensor) -> list[Tensor]:
    """Largest absolute values of the channels between the parts of chains, for calibration.

    Args:
        expression: of any nesting.
        x: ``(batch, I, *input_size)``; of a fully connected layer ``(..., I)``.

    Returns:
        ``(M,)`` for each pair of neighbouring parts, in the order in which ``equalized`` takes them.

    Example:
        >>> expression = Chain(Conv(torch.tensor([[4.0], [1.0]])), Conv(torch.tensor([[1.0, 1.0]])))
        >>> middle_ranges(expression, torch.tensor([[-1.0], [0.5]]))
        [tensor([4., 1.])]
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
    """Scale the factors against each other, so that quantisation is predicted to lose the least.

    Args:
        expression: of any nesting, its factors of one dtype; computed in float64.
        ranges: as ``middle_ranges`` gives them; the largest over several inputs.

    Returns:
        One of the same structure and dtype that composes to the same kernel and bias, but for
        rounding. A channel that is never anything but zero, or that nothing reads, is left as it is.

    Examples:
        >>> expression = Chain(Conv(torch.tensor([[4.0], [1.0]])), Conv(torch.tensor([[1.0, 1.0]])))
        >>> ranges = middle_ranges(expression, torch.ones(1, 1))
        >>> [leaf.weight.flatten().tolist() for leaf in leaves(equalized(expression, ranges))]
        [[1.0, 1.0], [4.0, 1.0]]
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
    """The scale of the middle channels, ``(M,)``, of least predicted error; ones where none does better."""
    read = _input_ranges(reader)
    live = (passing > 0) & (read > 0)
    best = torch.ones_like(passing)
    if not live.any():
        return best
    passing = passing.clamp(min=_SMALLEST * float(passing[live].max()))
    read = read.clamp(min=_SMALLEST * float(read[live].max()))
    tried = [torch.where(live, read ** (1 - a) / passing**a, 1.0) for a in _STRENGTHS]
    return min(
        (best, *tried), key=lambda scale: _error(reader, torch.where(live, passing, 0), scale)
    )


def _error(reader: Expression, passing: Tensor, scale: Tensor) -> float:
    """The output's squared error, in units that all scales share."""
    channels = scale * passing
    step = channels.amax().square()
    total = 0.0
    for conv in _first_convs(reader):
        kernels = scaled_inputs(conv, 1 / scale)
        assert isinstance(kernels, Conv)
        by_group = channels.view(conv.groups, 1, -1).expand(
            -1, conv.out_channels // conv.groups, -1
        )
        energy = _MEAN_SQUARE * conv.num_taps * by_group.square().sum(2).flatten()
        weights = kernels.weight.flatten(1)
        total += float(
            step * weights.square().sum() + (weights.abs().amax(1).square() * energy).sum()
        )
    return total


def _first_convs(expression: Expression) -> Iterator[Conv]:
    """The convolutions that read the input."""
    if isinstance(expression, Conv):
        yield expression
    else:
        for part in expression.parts[:1] if isinstance(expression, Chain) else expression.parts:
            yield from _first_convs(part)


def _input_ranges(expression: Expression) -> Tensor:
    """Largest absolute weight that reads each input channel, ``(I,)``."""
    found = []
    for conv in _first_convs(expression):
        blocks = conv.taps_last.abs().amax(2).unflatten(0, (conv.groups, -1))
        found.append(blocks.amax(1).flatten())
    return torch.stack(found).amax(0)


def _num_axes(expression: Expression) -> int:
    return next(leaves(expression)).geometry.num_axes


def _range(x: Tensor, axis: int) -> Tensor:
    return x.abs().movedim(axis, 0).flatten(1).amax(1)
