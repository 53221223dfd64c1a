"""What tensors are known by: their numbers, as a hash takes them."""

from __future__ import annotations

import torch
from torch import Tensor


def content_of(tensor: Tensor) -> memoryview:
    """The bytes of a dense tensor of any shape, dtype and device, in the order of its indices."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
