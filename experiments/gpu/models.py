"""The models of the GPU experiment: random weights, since only time and agreement are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import decompose
from decompose import DecomposeError
from experiments.zoo.networks import awaken_


@dataclass(frozen=True)
class Setting:
    """What one run measures.

    Attributes:
        models: architecture by title.
        size: pixels of an input's side.
        num_images: images to calibrate on.
        batch_sizes: inputs at a time.
        dtypes: of weights and inputs.
        engines: by name, the quickest to prepare first.
        num_rounds: turns that each model has in a timing.
    """

    models: Mapping[str, str]
    size: int
    num_images: int
    batch_sizes: Sequence[int]
    dtypes: Sequence[str]
    engines: Sequence[str]
    num_rounds: int


FULL = Setting(
    {
        "VGG16": "torchvision:vgg16,weights=none",
        "ResNet-50": "torchvision:resnet50,weights=none",
        "ConvNeXt-T": "torchvision:convnext_tiny,weights=none",
    },
    size=224,
    num_images=16,
    batch_sizes=(1, 8, 32),
    dtypes=("float32", "float16", "bfloat16"),
    engines=("eager", "cudagraph", "triton", "compile"),
    num_rounds=7,
)

SMALL = Setting(
    {"SqueezeNet 1.1": "torchvision:squeezenet1_1,weights=none,num_classes=10"},
    size=40,
    num_images=4,
    batch_sizes=(1, 2),
    dtypes=("float32",),
    engines=("eager",),
    num_rounds=2,
)
"""A run of seconds on a CPU, which shows that the code works and measures nothing."""

ORIGINAL = "original"
MIXTURE = "half the MACs, mixed"
UNIFORM = "DW+PW, T = 2"
"""Every layer that can take it; the Triton kernel fuses its terms."""


def build(architecture: str, size: int, device: torch.device) -> tuple[nn.Module, Tensor]:
    """Build a model in evaluation mode that passes something on, and an example.

    Args:
        architecture: as ``decompose.load`` takes it.
        size: pixels of the example's side.
        device: where both lie.

    Returns:
        The model, and zeros of shape ``(1, 3, size, size)``.
    """
    torch.manual_seed(0)
    model = decompose.load(architecture)
    example = torch.zeros(1, 3, size, size)
    awaken_(model, example)
    return model.to(device).eval(), example.to(device)


def uniform(model: nn.Module, example: Tensor) -> nn.Module | None:
    """Decouple every layer that takes it into two terms; ``None`` where no layer does."""
    try:
        plan = decompose.plan(model, example, method="dw_pw", rank=2)
    except DecomposeError:
        return None
    return decompose.apply(plan, model) if plan.layers else None
