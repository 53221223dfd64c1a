"""Processes end with their launcher."""

import os
import select
import signal
import subprocess
import sys

import pytest

from decompose.utils.launcher import is_lost_peer

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


def test_a_lost_peer_is_known_among_launched_processes_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = RuntimeError("[../gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not is_lost_peer(error)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_lost_peer(error)
    assert not is_lost_peer(RuntimeError("shape mismatch"))
