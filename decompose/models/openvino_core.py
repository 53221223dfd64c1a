"""OpenVINO's core, which loads its plugins: one for the process, so that they are never unloaded."""

from __future__ import annotations

from functools import cache
from typing import Any

from decompose.utils.optional_dependencies import required


@cache
def openvino_core() -> Any:
    """The core of the process.

    Plugins that are unloaded with a core of their own left handlers behind, at which a later fork crashed.

    Raises:
        DecomposeError: OpenVINO is not installed.
    """
    return required("openvino", "OpenVINO", "openvino").Core()
