"""Processes end with their launcher."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import decompose
from decompose.utils.launcher import LOST, is_lost_peer
from tests.training.cases import make_images

_WORKER = """
import os, sys, time
sys.path.insert(0, os.getcwd())
from decompose.utils.launcher import end_with_launcher
end_with_launcher()
print(os.getpid(), flush=True)
time.sleep(300)
"""
_LAUNCHER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_WORKER!r}])"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does it")
def test_a_killed_launcher_takes_its_processes_along() -> None:
    launcher = subprocess.Popen(
        [sys.executable, "-c", _LAUNCHER],
        env={**os.environ, "WORLD_SIZE": "2"},
        stdout=subprocess.PIPE,
    )
    assert launcher.stdout is not None
    with launcher.stdout:
        worker = int(launcher.stdout.readline())
        try:
            launcher.kill()
            launcher.wait()
            # The pipe ends with the last process that holds it.
            ready, _, _ = select.select([launcher.stdout], [], [], 60)
            assert ready
            assert launcher.stdout.read() == b""
        except AssertionError:
            os.kill(worker, signal.SIGKILL)
            raise


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command that trains a tiny model for a long time."""
    folder = tmp_path_factory.mktemp("launched")
    torch.manual_seed(0)
    model = decompose.load("timm:test_resnet,weights=none,num_classes=3")
    plan = decompose.plan(model, torch.zeros(1, 3, 32, 32), method="spatial", ratio=2)
    decompose.save(decompose.apply(plan, model), folder / "small.safetensors")
    make_images(folder / "data", 4)
    options = ["--input-size", "32", "--epochs", "10000", "--batch-size", "4", "--workers", "0"]
    data = [
        "--data",
        str(folder / "data"),
        "--device",
        "cpu",
        "-o",
        str(folder / "out.safetensors"),
    ]
    return ["finetune", str(folder / "small.safetensors"), *options, *data]


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
@pytest.mark.endurance
@pytest.mark.parametrize("killed", ["first worker", "second worker", "launcher"])
def test_a_run_ends_with_one_line_whichever_process_is_killed(
    killed: str, training: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "out.safetensors"
    side_by_side = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *side_by_side, "-m", "decompose", *training[:-1], str(output)]
    log = tmp_path / "stderr"
    with log.open("wb") as stderr:
        launcher = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        until = time.monotonic() + 100
        while "epoch 1 of" not in log.read_text() and time.monotonic() < until:
            time.sleep(0.05)
        workers = children(launcher.pid)
        assert len(workers) == 2, log.read_text()
        victims = {
            "first worker": workers[0],
            "second worker": workers[1],
            "launcher": launcher.pid,
        }
        os.kill(victims[killed], signal.SIGKILL)
        assert launcher.wait(30) != 0
        until = time.monotonic() + 30
        while any(map(is_running, workers)) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(map(is_running, workers))
    finally:
        launcher.kill()
    while LOST not in log.read_text() and time.monotonic() < until:
        time.sleep(0.05)
    lines = log.read_text().splitlines()
    assert lines[-1] == LOST
    assert lines.count(LOST) == 1
    assert not output.exists()


def children(parent: int) -> list[int]:
    """The processes that one started, in their order, without those that only print for them."""
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return sorted(int(number) for number in listed.split())


def is_running(process: int) -> bool:
    """Whether a process has not ended, or is not waited for."""
    try:
        state = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


def test_a_line_is_printed_behind_what_the_launcher_prints(tmp_path: Path) -> None:
    worker = (
        "from decompose.utils.launcher import end_with_launcher; "
        "end_with_launcher().close({line!r})"
    )
    for line, expected in (
        ("error: x", ["error: x", "launcher", "error: x"]),
        (None, ["launcher"]),
    ):
        program = worker.format(line=line)
        launcher = (
            "import subprocess, sys, time; "
            f"subprocess.run([sys.executable, '-c', {program!r}]); "
            "time.sleep(0.3); print('launcher', file=sys.stderr, flush=True)"
        )
        ended = subprocess.run(
            [sys.executable, "-c", launcher],
            check=True,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
        )
        assert ended.stderr.splitlines() == expected


def test_a_lost_peer_is_known_among_launched_processes_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = RuntimeError("[../gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not is_lost_peer(error)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_lost_peer(error)
    assert not is_lost_peer(RuntimeError("shape mismatch"))
