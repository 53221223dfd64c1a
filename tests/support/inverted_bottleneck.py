"""An inverted bottleneck whose hidden channels are twins, so that half of them can go at no loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HIDDEN = 24
EXAMPLE = torch.zeros(1, 4, 12, 12)


class InvertedBottleneck(nn.Module):
    """Expand, filter, project, add (MobileNet v2); then a pooled head.

    Args:
        has_twins: whether the second half of the hidden channels repeats the first.
    """

    def __init__(self, *, has_twins: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(4, 8, 3, padding=1)
        self.expand = nn.Conv2d(8, HIDDEN, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(HIDDEN)
        self.depthwise = nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1, groups=HIDDEN)
        self.bn2 = nn.BatchNorm2d(HIDDEN)
        self.project = nn.Conv2d(HIDDEN, 8, 1)
        self.head = nn.Linear(8, 10)
        for norm in (self.bn1, self.bn2):
            nn.init.normal_(norm.bias)
            assert norm.running_mean is not None
            norm.running_mean.normal_(std=0.1)
        if has_twins:
            for module in (self.expand, self.bn1, self.depthwise, self.bn2):
                for tensor in module.state_dict().values():
                    if tensor.ndim:
                        tensor[HIDDEN // 2 :] = tensor[: HIDDEN // 2]
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, 4, 12, 12)`` to ``(batch, 10)``."""
        x = self.stem(x).relu()
        hidden = nn.functional.relu6(self.bn1(self.expand(x)))
        hidden = nn.functional.relu6(self.bn2(self.depthwise(hidden)))
        return self.head((x + self.project(hidden)).mean((2, 3)))
