"""Run a layer in pieces, so that the maps between its convolutions stay in the cache.

T branches write and read T maps of the output's size. Where those are larger than the cache, the
layer waits for memory, and each fresh map costs as many page faults as it has pages. So a batch is
cut into images, and an image into strips of rows. Strips overlap by the kernels' reach, and the
rows that saw the padding at a cut are dropped:

    y[a:b] = body(x[a - before : b + after]) without the rows of the overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, prod

import torch
from torch import Tensor

from decompose.algebra import Conv, Expression, Sum, leaves, map_leaves, output_size

_MAP_BYTES = 7 << 19
"""Size of the maps between convolutions that runs fastest on two cores with 1 MiB of cache each."""

_LEAST_OVERLAPS = 6
"""Strips of fewer rows than six overlaps compute too much twice."""

Body = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ReceptiveField:
    """Rows of the input that one row of an expression's output depends on.

    Attributes:
        outline: the expression, without weights.
        before: rows of the input before it.
        after: rows of the input after it.
        in_rows: whether its output may be computed row by row.
    """

    outline: Expression
    before: int
    after: int
    in_rows: bool

    @classmethod
    def of(cls, expression: Expression) -> ReceptiveField:
        """Compute the receptive field of an expression."""
        outline = map_leaves(Conv.without_weights, expression)
        in_rows = all(
            g.num_axes == 2
            and g.stride[0] == 1
            and not (g.transposed or g.pooled)
            and (g.padding_mode != "circular" or g.padding[0] == (0, 0))
            for g in (leaf.geometry for leaf in leaves(outline))
        )
        before, after = _margins(outline) if in_rows else (0, 0)
        return cls(outline, before, after, in_rows)

    @property
    def width(self) -> int:
        """Channels of the widest map that the expression makes."""
        return max(leaf.out_channels for leaf in leaves(self.outline))

    def room_for(self, x: Tensor) -> Tensor:
        """Allocate an uninitialised output for an input, in the same memory format."""
        *_, last = leaves(self.outline)
        size = output_size(self.outline, x.shape[2:])
        channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        shape = (len(x), last.out_channels, *size)
        return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def run_in_pieces(body: Body, x: Tensor, reach: ReceptiveField) -> Tensor:
    """Run a layer on images, or strips of them, whose maps fit the cache.

    Args:
        body: ``(batch, I, *input_size)`` to ``(batch, O, *output_size)``, of the same dtype.
        x: its input; an image is cut where it lies in channels-last order, so that a strip is one
            piece of memory.
        reach: of the expression that the body computes.
    """
    row_bytes = reach.width * prod(x.shape[3:]) * x.element_size()
    image_bytes = row_bytes * x.shape[2]
    if len(x) * image_bytes <= _MAP_BYTES:
        return body(x)
    rows = max(_MAP_BYTES // row_bytes, _LEAST_OVERLAPS * (reach.before + reach.after))
    channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    if image_bytes > _MAP_BYTES and rows < x.shape[2] and reach.in_rows and channels_last:
        # Strips of one height, rather than a thin one at last.
        return run_in_strips(body, x, reach, ceil(x.shape[2] / ceil(x.shape[2] / rows)))
    num_images = max(1, _MAP_BYTES // image_bytes)
    return body(x) if len(x) <= num_images else run_in_images(body, x, reach, num_images)


def run_in_images(body: Body, x: Tensor, reach: ReceptiveField, num_images: int) -> Tensor:
    """Run a layer on ``num_images`` images at a time."""
    # Before the temporaries, so that the heap's end does not move with every layer.
    y = reach.room_for(x)
    for start in range(0, len(x), num_images):
        piece = slice(start, start + num_images)
        y[piece] = body(x[piece])
    return y


def run_in_strips(body: Body, x: Tensor, reach: ReceptiveField, num_rows: int) -> Tensor:
    """Run a layer on ``num_rows`` rows of one image's output at a time.

    Args:
        body: as for ``run_in_pieces``, of a reach with ``in_rows``.
        x: ``(batch, I, H, W)``.
        reach: of the body.
        num_rows: in a strip.
    """
    y = reach.room_for(x)
    height = y.shape[2]
    for index in range(len(x)):
        for start in range(0, height, num_rows):
            first, end = max(start - reach.before, 0), min(start + num_rows, height)
            strip = body(x[index : index + 1, :, first : end + reach.after])
            y[index, :, start:end] = strip[0, :, start - first : end - first]
    return y


def _margins(expression: Expression) -> tuple[int, int]:
    """Rows before and after that an output row depends on."""
    if isinstance(expression, Conv):
        g = expression.geometry
        reach = g.dilation[0] * (expression.kernel_size[0] - 1)
        return g.padding[0][0], reach - g.padding[0][0]
    margins = [_margins(part) for part in expression.parts]
    befores, afters = zip(*margins, strict=True)
    join = max if isinstance(expression, Sum) else sum
    return join(befores), join(afters)
