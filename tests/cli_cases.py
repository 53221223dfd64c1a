"""How tests call the command."""

from __future__ import annotations

import pytest

from decompose.cli import main

Captured = pytest.CaptureFixture[str]


def run(*arguments: object) -> int:
    """Exit code of the command with these arguments."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
