"""OpenVINO's core, which loads its plugins: one for the process, so that they stay loaded."""

from __future__ import annotations

from functools import cache
from typing import Any

from decompose.utils.optional_dependencies import required


@cache
def openvino_core() -> Any:
    """The core of the process.

    The CPU plugin sets up a stack for signals. Where it was unloaded with its core, the process crashed at
    a later signal: a child that ended while it was waited for.

    Raises:
        DecomposeError: OpenVINO is not installed.
    """
    return required("openvino", "OpenVINO", "openvino").Core()
