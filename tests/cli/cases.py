"""How tests call the command."""

from __future__ import annotations

import pytest

from decompose.cli import main

ARCH = "torchvision:resnet18,weights=none,num_classes=6"
"""Of the checkpoint that most commands are given."""

Captured = pytest.CaptureFixture[str]


def run(*arguments: object) -> int:
    """Exit code of the command with these arguments."""
    return main([str(argument) for argument in arguments])
