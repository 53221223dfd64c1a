"""Runs that are killed at any moment come to the very bits of one that is not, in one process and in two."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.finetuning_cases import make_pictures

ROOT = Path(__file__).parents[1]
NUM_KILLS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resuming")
    make_pictures(folder / "data")
    return folder


@pytest.fixture(scope="module", params=[1, 2])
def runs(request: pytest.FixtureRequest, folder: Path) -> list[dict[str, Any]]:
    """What an uninterrupted run and twenty killed ones come to, in so many processes."""
    program = ["tests.killing", str(folder / "data"), str(folder / str(request.param))]
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", *program, str(request.param), str(NUM_KILLS)],
        check=True,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    return json.loads(ended.stdout)


def test_killed_runs_come_to_the_same_bits(runs: list[dict[str, Any]]) -> None:
    whole, *killed = runs
    assert len(killed) == NUM_KILLS
    assert len({digest for digest, _ in whole["results"]}) == 1
    assert all(run["results"] == whole["results"] for run in killed)
    # The kills have hit at different steps, with a checkpoint there and without.
    assert len({tuple(run["left"]) for run in killed}) > NUM_KILLS / 4


def test_two_processes_come_to_the_weights_of_one(folder: Path) -> None:
    one, two = (folder / num / "0" / "tuned.0.safetensors" for num in ("1", "2"))
    if not one.exists() or not two.exists():
        pytest.skip("needs what the tests above leave")
    ours, theirs = load_file(one), load_file(two)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-5)
