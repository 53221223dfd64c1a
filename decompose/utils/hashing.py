"""What tensors are known by: their numbers, as a hash takes them."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def content_of(tensor: Tensor) -> memoryview:
    """The bytes of a dense tensor of any shape, dtype and device, in the order of its indices."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers, with their names and shapes."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(content_of(tensor))
    return digest.hexdigest()
