"""Runs of the tiny model that are killed at random moments, and what they come to when resumed.

    python -m tests.killing IMAGES FOLDER NUM_PROCESSES NUM_KILLS

prints a JSON list: of the uninterrupted run, and of each resumed one, the digest of every process's
weights, the history, and where the kill had left it. Models are made and trained in forks of this
process, so that each begins in milliseconds; a kill is SIGKILL to all of a run's processes.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

# Imported once, for all forks.
import accelerate  # noqa: F401
import rich.progress  # noqa: F401
import torch
import torchmetrics  # noqa: F401
from torchvision.datasets import ImageFolder  # noqa: F401

from decompose.models.serialization import save
from decompose.utils.hashing import weights_digest
from tests.training.cases import RECIPE, tuned

_STAGED = replace(RECIPE, blockwise=5)


def begin(data: Path, folder: Path, num_processes: int, *, resume: bool) -> list[int]:
    """Start a run, as ``torchrun`` would; the ids of its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(num_processes):
        if child := os.fork():
            children.append(child)
            continue
        code = 1
        try:
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes}
            if num_processes > 1:
                os.environ |= {name: str(value) for name, value in places.items()}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            found = tuned(data, recipe=_STAGED, folder=folder / "run", resume=resume)
            save(found.network, folder / f"tuned.{rank}.safetensors")
            result = [weights_digest(found.network), [vars(epoch) for epoch in found.history]]
            (folder / f"result.{rank}").write_text(json.dumps(result))
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    return children


def end(children: list[int]) -> None:
    """Wait for a run's processes, which should all end well."""
    for child in children:
        _, status = os.waitpid(child, 0)
        assert status == 0, status


def kill(children: list[int]) -> None:
    """Kill -9, in an order that changes from time to time."""
    for child in random.sample(children, len(children)):
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)


def kept(folder: Path) -> list[int]:
    """The steps that a run's checkpoints are of."""
    names = [path.name for path in (folder / "run").glob("step-*")]
    return sorted(int(re.findall(r"\d+", name)[0]) for name in names)


def wait_for(folder: Path, step: int) -> None:
    """Wait until a run has kept a number of steps."""
    until = time.monotonic() + 60
    while max(kept(folder), default=-1) < step and time.monotonic() < until:
        time.sleep(0.002)


def results(folder: Path) -> list[Any]:
    """What each process of a run came to."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("result.*"))]


def main(data: Path, root: Path, num_processes: int, num_kills: int) -> None:
    """Print what the uninterrupted and all resumed runs come to."""
    torch.set_num_threads(1)
    random.seed(0)
    runs, start, pause = [], time.monotonic(), 0.0
    for index in range(num_kills + 1):
        folder = root / str(index)
        folder.mkdir(parents=True)
        children, left = begin(data, folder, num_processes, resume=False), None
        if index == 0:
            end(children)
            # What a step takes, or so.
            pause = (time.monotonic() - start) / 10
        else:
            # Anywhere between two of the ten steps, or before the first.
            wait_for(folder, random.randrange(-1, 10))
            time.sleep(random.uniform(0, pause))
            kill(children)
            left = kept(folder)
            for path in folder.glob("result.*"):
                path.unlink()
            end(begin(data, folder, num_processes, resume=True))
        runs.append({"results": results(folder), "left": left})
    print(json.dumps(runs))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
