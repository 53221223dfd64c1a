"""Describe the machine, its threads and the versions of libraries, for records."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import torch

VERSION = "0.1.0"
"""Version of this package, ``torch-decompose`` on PyPI."""


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The machine, torch's threads, and the versions of libraries that figures depend on."""
    versions = {name: version(name) for name in ("torchvision", "pillow")}
    return {
        "machine": machine(torch.device(device)),
        "threads": torch.get_num_threads(),
        "python": python_version(),
        "torch": torch.__version__,
        "decompose": VERSION,
        **versions,
    }


def machine(device: torch.device) -> str:
    """The processor or GPU, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = "CPU"
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = next(iter(names), model)
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"
