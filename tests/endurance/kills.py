"""Commands killed at random moments: what is there then is whole, and the command can be run again.

Each runs in a fork of this process, so that it begins in milliseconds; a kill is SIGKILL.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

# Imported once, for all forks.
import accelerate  # noqa: F401
import onnx
import onnxruntime  # noqa: F401
import rich.progress  # noqa: F401
import torch
import torchmetrics  # noqa: F401
from PIL import Image

import decompose
from decompose.cli import main
from decompose.utils.errors import DecomposeError

_ARCH = "timm:test_resnet,weights=none,num_classes=2"
_SIZE = 32
_SECONDS = 600
"""That a command may take, on a busy machine."""

_ORPHANS_SECONDS = 300
"""In which the processes that a killed command had started end by themselves."""


@dataclass(frozen=True)
class Command:
    """A command that writes a file.

    Attributes:
        arguments: its own, without the output.
        output: the file's name.
        check: reads the file; raises where it is not whole.
        again: further arguments of the run after a kill.
        weight: of all kills, the share that it gets beside the others' weights; where a run costs
            seconds, less.
    """

    arguments: Callable[[Path], list[str]]
    output: str
    check: Callable[[Path], object]
    again: Callable[[Path], list[str]] = lambda _: []
    weight: int = 2


@cache
def materials() -> Path:
    """A folder with a checkpoint, what compress makes of it, and images in two class folders."""
    folder = Path(mkdtemp())
    torch.manual_seed(0)
    torch.save(decompose.load(_ARCH).state_dict(), folder / "a.pth")
    for split in ("train", "val"):
        for index in range(4):
            path = folder / "images" / split / f"class{index % 2}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = torch.randint(255, (40, 40, 3), dtype=torch.uint8)
            Image.fromarray(noise.numpy()).save(path)
    model = decompose.load(folder / "a.pth", _ARCH)
    plan = decompose.plan(model, torch.zeros(1, 3, _SIZE, _SIZE), method="spatial", ratio=2)
    decompose.save(decompose.apply(plan, model), folder / "small.safetensors")
    return folder


def _compress(folder: Path) -> list[str]:
    settings = ["--method", "spatial", "--ratio", "2", "--input-size", str(_SIZE)]
    return ["compress", f"{folder}/a.pth", "--arch", _ARCH, *settings]


def _finetune(folder: Path) -> list[str]:
    settings = ["--epochs", "2", "--batch-size", "2", "--workers", "0", "--input-size", str(_SIZE)]
    data = ["--data", f"{folder}/images", "--device", "cpu"]
    return ["finetune", f"{folder}/small.safetensors", *data, *settings]


def _evaluate(folder: Path) -> list[str]:
    options = ["--data", f"{folder}/images", "--workers", "0", "--input-size", str(_SIZE)]
    return ["evaluate", f"{folder}/small.safetensors", *options, "--device", "cpu"]


def _export(folder: Path) -> list[str]:
    return ["export", f"{folder}/small.safetensors", "--input-size", str(_SIZE)]


def _quantise(folder: Path) -> list[str]:
    options = ["--calibrate", f"{folder}/images/train", "--input-size", str(_SIZE)]
    return ["quantize", f"{folder}/small.safetensors", *options]


def _resuming(folder: Path) -> list[str]:
    return ["--resume"] if any(folder.glob("*.checkpoints/step-*")) else []


def _check_onnx(path: Path) -> None:
    onnx.checker.check_model(onnx.load(path))


COMMANDS = {
    "compress": Command(_compress, "out.safetensors", decompose.load),
    "finetune": Command(_finetune, "out.safetensors", decompose.load, _resuming),
    "evaluate": Command(_evaluate, "out.json", lambda path: json.loads(path.read_text()), weight=4),
    "export": Command(_export, "out.onnx", _check_onnx, weight=1),
    "quantize": Command(_quantise, "out.onnx", _check_onnx, weight=1),
}
"""By name, in the order of the table; those that take longest come last."""


def killed(name: str, rng: random.Random) -> str | None:
    """Kill a command at a random moment, and run it again.

    Args:
        name: of the command.
        rng: chooses the moment.

    Returns:
        What should not be; ``None`` where all is well.
    """
    command = COMMANDS[name]
    with TemporaryDirectory() as directory:
        folder = Path(directory)
        output = folder / command.output
        moment = rng.random() * _seconds(name)
        child = _begun(command, output, [])
        while not _ended(child) and _cpu_seconds(child) < moment:
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if _runs_on(child):
            return "its processes run on"
        if output.exists() and (problem := _problem(command, output)):
            return f"half written: {problem}"
        _, status = os.waitpid(_begun(command, output, command.again(folder)), 0)
        if status:
            return f"run again, it ends with status {status}"
        if problem := _problem(command, output):
            return f"run again: {problem}"
        left = [path.name for path in folder.rglob("*") if path.name.endswith(".partial")]
        return f"left behind: {left}" if left else None


def _ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _cpu_seconds(child: int) -> float:
    """CPU time of a process and of what it waited for, which other work does not change."""
    fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _runs_on(group: int) -> bool:
    """Whether processes of a killed command are there minutes later; they are ended then."""
    deadline = time.monotonic() + _ORPHANS_SECONDS
    try:
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.1)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@cache
def _warm_exporter() -> None:
    """Load what ``torch.onnx`` and ONNX Runtime's quantisation load once a process: seconds."""
    import onnxruntime.quantization  # noqa: F401

    decompose.to_onnx(
        torch.nn.Conv2d(3, 2, 1).eval(), torch.zeros(1, 3, 4, 4), materials() / "w.onnx"
    )


@cache
def _seconds(name: str) -> float:
    """CPU time of a command that nobody kills."""
    if COMMANDS[name].output.endswith(".onnx"):
        _warm_exporter()
    with TemporaryDirectory() as folder:
        output = Path(folder, COMMANDS[name].output)
        _, status, used = os.wait4(_begun(COMMANDS[name], output, []), 0)
        assert status == 0, f"{name} fails by itself"
        return used.ru_utime + used.ru_stime


def _problem(command: Command, output: Path) -> str | None:
    try:
        command.check(output)
    except (DecomposeError, ValueError, OSError, onnx.checker.ValidationError) as error:
        return str(error)
    return None


def _begun(command: Command, output: Path, again: list[str]) -> int:
    """Start a command in a fork; its process id."""
    arguments = [*command.arguments(materials()), "-o", str(output), *again]
    if child := os.fork():
        return child
    code = 1
    try:
        # What it starts is known by its group.
        os.setpgid(0, 0)
        # One that hangs ends by this signal.
        signal.alarm(_SECONDS)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        torch.set_num_threads(1)
        code = main(arguments)
    finally:
        sys.stdout = sys.stderr = None
        os._exit(code)
