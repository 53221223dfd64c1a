"""Runs killed at any moment come to the very bits of one that is not, in one process and in two."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.cases import make_images

ROOT = Path(__file__).parents[2]
NUM_KILLS = 20


Launched = Callable[[int], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resuming")
    make_images(folder / "data")
    return folder


@pytest.fixture(scope="module")
def launched(folder: Path) -> Launched:
    """Results of an uninterrupted run and of twenty killed ones, in some processes; done once."""

    @cache
    def launch(num_processes: int) -> list[dict[str, Any]]:
        places = [str(folder / "data"), str(folder / str(num_processes))]
        counts = [str(num_processes), str(NUM_KILLS)]
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-m", "tests.training.killing", *places, *counts],
            check=True,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=600,
        )
        return json.loads(ended.stdout)

    return launch


@pytest.mark.parametrize("num_processes", [1, 2])
def test_killed_runs_come_to_the_same_bits(launched: Launched, num_processes: int) -> None:
    whole, *killed = launched(num_processes)
    assert len(killed) == NUM_KILLS
    assert len(whole["results"]) == num_processes
    assert len({digest for digest, _ in whole["results"]}) == 1
    assert all(run["results"] == whole["results"] for run in killed)
    # The kills have hit at different steps.
    assert len({tuple(run["left"]) for run in killed}) > NUM_KILLS / 4


def test_two_processes_come_to_the_weights_of_one(launched: Launched, folder: Path) -> None:
    for num_processes in (1, 2):
        launched(num_processes)
    ours, theirs = (load_file(folder / num / "0" / "tuned.0.safetensors") for num in ("1", "2"))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-5)
