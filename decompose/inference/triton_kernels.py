"""DW+PW in one kernel, for GPUs: the depthwise result never leaves the chip.

    y[n, o] = b[o] + sum_t sum_i P_t[o, i] (D_t[i] * x[n, i])

There is nothing between the two convolutions, so a block of depthwise outputs is made in registers and
goes at once into the matrix product with P_t; in eager torch it is written to memory and read back, T
times. Written in Triton, whose interpreter runs it on a CPU as well, for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from decompose.algebra import Chain, Conv, Expression, Sum, leaves
from decompose.layers.modules import DecomposedLayer

_PIXELS, _OUTPUTS, _INPUTS = 64, 128, 32


class FusedLayer(nn.Module):
    """A sum of depthwise, then pointwise convolutions, for inference on a GPU.

    Args:
        expression: one that ``is_fusible``.
    """

    depthwise: Tensor
    pointwise: Tensor
    bias: Tensor | None

    def __init__(self, expression: Expression) -> None:
        super().__init__()
        pairs = [tuple(leaves(branch)) for branch in _branches(expression)]
        biases = [second.bias for _, second in pairs if second.bias is not None]
        self.geometry = pairs[0][0].geometry
        self.register_buffer("depthwise", torch.stack([first.weight[:, 0] for first, _ in pairs]))
        self.register_buffer("pointwise", torch.stack([s.weight[:, :, 0, 0] for _, s in pairs]))
        self.register_buffer("bias", sum(biases[1:], biases[0]) if biases else None)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, I, H, W)`` to ``(N, O, H', W')``, in channels-last order."""
        g = self.geometry
        return dw_pw(
            x,
            self.depthwise,
            self.pointwise,
            self.bias,
            stride=g.stride,
            padding=g.padding,
            dilation=g.dilation,
        )


def fuse_(model: nn.Module) -> None:
    """Replace every such layer by one kernel, in place; the model is for inference only then."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, DecomposedLayer) and is_fusible(child.expression):
                setattr(module, name, FusedLayer(child.expression))


def is_fusible(expression: Expression) -> bool:
    """Whether an expression is a sum of depthwise, then pointwise 2-D convolutions, all alike."""
    pairs = [tuple(leaves(branch)) for branch in _branches(expression)]
    chains = all(isinstance(branch, Chain) for branch in _branches(expression))
    if not chains or any(len(pair) != 2 for pair in pairs):
        return False
    alike = len({(first.geometry, first.kernel_size) for first, _ in pairs}) == 1
    return alike and all(_is_depthwise(a) and _is_pointwise(b) for a, b in pairs)


def _is_depthwise(conv: Conv) -> bool:
    g = conv.geometry
    plain = g.num_axes == 2 and not g.transposed and g.padding_mode == "zeros"
    one_to_one = conv.weight.shape[1] == 1 and conv.out_channels == conv.groups
    return plain and one_to_one and conv.bias is None


def _is_pointwise(conv: Conv) -> bool:
    return conv.is_pointwise and conv.groups == 1 and all(map(conv.geometry.is_trivial, (0, 1)))


def _branches(expression: Expression) -> Sequence[Expression]:
    return expression.parts if isinstance(expression, Sum) else (expression,)


def dw_pw(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    bias: Tensor | None,
    *,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[tuple[int, int]] = ((0, 0), (0, 0)),
    dilation: Sequence[int] = (1, 1),
) -> Tensor:
    """A sum of T depthwise, then pointwise convolutions.

    Args:
        x: ``(N, I, H, W)``, float32, float16 or bfloat16; sums are taken in float32.
        depthwise: ``(T, I, kh, kw)``.
        pointwise: ``(T, O, I)``.
        bias: ``(O,)``, or ``None``.
        stride: of the depthwise convolutions, in pixels.
        padding: zeros added along both axes, as ``(before, after)``.
        dilation: of the depthwise convolutions, in pixels.

    Returns:
        ``(N, O, H', W')`` in channels-last order.
    """
    num_terms, outputs, inputs = pointwise.shape
    taps = depthwise.shape[2:]
    batch, _, *size = x.shape
    (height_in, height), (width_in, width) = (
        (pixels, (pixels + sum(widths) - d * (k - 1) - 1) // s + 1)
        for pixels, widths, d, k, s in zip(size, padding, dilation, taps, stride, strict=True)
    )
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.empty(
        (batch, outputs, height, width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    num_pixels = batch * height * width
    grid = (triton.cdiv(num_pixels, _PIXELS), triton.cdiv(outputs, _OUTPUTS))
    constants: dict[str, Any] = {
        "TERMS": num_terms,
        "TAPS_H": taps[0],
        "TAPS_W": taps[1],
        "STRIDE_H": stride[0],
        "STRIDE_W": stride[1],
        "PAD_H": padding[0][0],
        "PAD_W": padding[1][0],
        "STEP_H": dilation[0],
        "STEP_W": dilation[1],
        "BIASED": bias is not None,
        "PIXELS": _PIXELS,
        "OUTPUTS": _OUTPUTS,
        "INPUTS": _INPUTS,
        "num_stages": 1,
    }
    _dw_pw_kernel[grid](
        x,
        # The channel is the innermost axis of all that is read.
        depthwise.flatten(2).transpose(1, 2).contiguous(),
        pointwise.transpose(1, 2).contiguous(),
        y if bias is None else bias,
        y,
        num_pixels,
        inputs,
        outputs,
        height_in,
        width_in,
        height,
        width,
        **constants,
    )
    return y


@triton.jit
def _dw_pw_kernel(
    x,
    depthwise,
    pointwise,
    bias,
    y,
    num_pixels,
    inputs,
    outputs,
    height_in,
    width_in,
    height,
    width,
    TERMS: tl.constexpr,
    TAPS_H: tl.constexpr,
    TAPS_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
    STEP_H: tl.constexpr,
    STEP_W: tl.constexpr,
    BIASED: tl.constexpr,
    PIXELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """One block of pixels and outputs; every tensor has its channels innermost."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    inside = pixel < num_pixels
    column = pixel % width
    row = (pixel // width) % height
    image = (pixel // (width * height)).to(tl.int64)
    total = tl.zeros((PIXELS, OUTPUTS), dtype=tl.float32)
    for term in range(TERMS):
        for start in range(0, inputs, INPUTS):
            channel = start + tl.arange(0, INPUTS)
            there = channel < inputs
            filtered = tl.zeros((PIXELS, INPUTS), dtype=tl.float32)
            for tap_h in tl.static_range(TAPS_H):  # pyright: ignore[reportGeneralTypeIssues]
                for tap_w in tl.static_range(TAPS_W):  # pyright: ignore[reportGeneralTypeIssues]
                    h = row * STRIDE_H + tap_h * STEP_H - PAD_H
                    w = column * STRIDE_W + tap_w * STEP_W - PAD_W
                    seen = inside & (h >= 0) & (h < height_in) & (w >= 0) & (w < width_in)
                    at = ((image * height_in + h) * width_in + w) * inputs
                    values = tl.load(
                        x + at[:, None] + channel[None, :],
                        mask=seen[:, None] & there[None, :],
                        other=0.0,
                    )
                    tap = (term * TAPS_H + tap_h) * TAPS_W + tap_w
                    weights = tl.load(depthwise + tap * inputs + channel, mask=there, other=0.0)
                    filtered += values.to(tl.float32) * weights[None, :].to(tl.float32)
            mixing = tl.load(
                pointwise
                + (term * inputs + channel[:, None]).to(tl.int64) * outputs
                + output[None, :],
                mask=there[:, None] & (output < outputs)[None, :],
                other=0.0,
            )
            total += tl.dot(filtered.to(mixing.dtype), mixing)
    if BIASED:
        total += tl.load(bias + output, mask=output < outputs, other=0.0)[None, :].to(tl.float32)
    tl.store(
        y + pixel[:, None].to(tl.int64) * outputs + output[None, :],
        total.to(y.dtype.element_ty),
        mask=inside[:, None] & (output < outputs)[None, :],
    )
