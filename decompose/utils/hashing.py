"""SHA-256 of tensors, files and models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def content_of(tensor: Tensor) -> memoryview:
    """The bytes of a dense tensor of any shape, dtype and device, in the order of its indices."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def content_digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a text and of tensors with their names."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(content_of(tensors[name]))
    return digest.hexdigest()


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of a model's parameters and buffers, with their names and shapes."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(content_of(tensor))
    return digest.hexdigest()
