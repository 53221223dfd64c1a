"""What several test files share: the real network, real photographs, a quiet hypothesis."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

import decompose
from decompose.data.bundled import photographs
from decompose.models.architectures import OFFLINE_VGG16, Architecture

# Derandomised: a run tells whether the code changed, not which examples were drawn.
settings.register_profile("tests", max_examples=60, deadline=None, derandomize=True)
settings.load_profile("tests")


@pytest.fixture(scope="session")
def vgg16() -> nn.Module:
    """VGG16 up to pool5, with its real weights."""
    return decompose.load(OFFLINE_VGG16)


@pytest.fixture(scope="session")
def images() -> Tensor:
    """The twelve photographs, preprocessed for VGG16: ``(12, 3, 224, 224)``."""
    return photographs(Architecture.parse(OFFLINE_VGG16).transform())[1]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
