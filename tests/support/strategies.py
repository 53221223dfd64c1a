"""Random convolutions of every kind, as modules with an input to try them on."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from decompose.algebra.expressions import PADDING_MODES
from decompose.layers.modules import CONVOLUTIONS, Convolution

Case = tuple[Convolution, Tensor]


@st.composite
def conv_cases(draw: st.DrawFn, *, groups: bool = True) -> Case:
    """A float64 convolution in 1-D to 3-D, ordinary or transposed, and a fitting input."""
    num_axes = draw(st.integers(1, 3))
    transposed = draw(st.booleans())
    num_groups = draw(st.integers(1, 3)) if groups else 1
    per_axis = {
        "kernel_size": draw(_axes(num_axes, 1, 4 if num_axes < 3 else 3)),
        "stride": draw(_axes(num_axes, 1, 3)),
        "dilation": draw(_axes(num_axes, 1, 2)),
        "padding": draw(_axes(num_axes, 0, 2)),
    }
    options: dict[str, Any] = {**per_axis, "groups": num_groups, "bias": draw(st.booleans())}
    if transposed:
        options["output_padding"] = tuple(
            draw(st.integers(0, max(stride, dilation) - 1))
            for stride, dilation in zip(options["stride"], options["dilation"], strict=True)
        )
    else:
        options["padding_mode"] = draw(st.sampled_from(PADDING_MODES))
        if draw(st.booleans()):
            options |= {"padding": "same", "stride": 1}
    seed = draw(st.integers(0, 2**16))
    torch.manual_seed(seed)
    kind: Any = CONVOLUTIONS[num_axes - 1 + 3 * transposed]
    channels = [num_groups * draw(st.integers(1, 4)) for _ in range(2)]
    module = kind(*channels, dtype=torch.float64, **options)
    # Large enough for the dilated kernel, and for padding that mirrors the input.
    sizes = [
        dilation * (taps - 1) + draw(st.integers(5, 7))
        for dilation, taps in zip(per_axis["dilation"], per_axis["kernel_size"], strict=True)
    ]
    return module, torch.randn(2, channels[0], *sizes, dtype=torch.float64)


def spatial(case: Case) -> bool:
    """Whether network decoupling has anything to do."""
    module = case[0]
    depthwise = module.groups > 1 and module.groups == module.in_channels
    return module.weight[0, 0].numel() > 1 and not depthwise


def _axes(num_axes: int, least: int, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(least, most)] * num_axes)


class Mixed(nn.Module):
    """Convolutions wherever people keep them: lists, dicts, nested, and one used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()) for _ in range(2)]
        )
        self.heads = nn.ModuleDict(
            {"mask": nn.ConvTranspose2d(16, 16, 4, stride=2, padding=1), "edge": self.blocks[0]}
        )
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv2d(16, 32, 1)
        self.grouped = nn.Conv2d(32, 32, 3, padding=2, dilation=2, groups=2)
        self.classifier = nn.Linear(32, 7)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 3, H, W)`` to ``(batch, 7)``."""
        x = self.norm(self.stem(x)).relu()
        for block in self.blocks:
            x = x + block(x)
        x = self.heads["mask"](x) + self.heads["edge"](x).repeat_interleave(2, 2).repeat_interleave(
            2, 3
        )
        x = self.grouped(self.pointwise(self.depthwise(x)).relu())
        return self.classifier(x.mean((2, 3)))
