"""A few damaged files of every kind, and a few kills, in every run; ``make endurance`` tries thousands."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from decompose.utils.errors import DecomposeError
from tests.endurance import kills
from tests.endurance.forks import READ, REFUSED, endings_of
from tests.endurance.kinds import KINDS, Kind
from tests.endurance.run import damage, kill


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads do not live on in a fork."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_damaged_file_is_read_or_refused_in_one_line(kind: Kind) -> None:
    count = damage(kind, 10)
    assert count.lost == {}
    assert count.read + count.refused == count.tried == 10


def test_a_killed_command_leaves_nothing_half_written() -> None:
    assert kill("compress", 2).lost == {}


def test_what_is_lost_is_noticed() -> None:
    def memory() -> None:
        bytearray(4 << 30)

    def two_lines() -> None:
        raise KeyError("a\nb")

    def signal_sent() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def refused() -> None:
        raise DecomposeError("no file")

    runs = [memory, two_lines, refused, signal_sent, lambda: os._exit(3), refused, dict]
    endings = list(endings_of(runs))
    assert [ending.split(" at ")[0] for ending in endings] == [
        "MemoryError",
        "KeyError",
        REFUSED,
        "ended by signal 15",
        "ended the process",
        REFUSED,
        READ,
    ]


def test_a_file_that_is_half_written_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = kills._begun

    def half(command: kills.Command, output: Path, again: list[str]) -> int:
        """As if the command wrote in place."""
        child = begun(command, output, again)
        output.write_bytes(b"half")
        return child

    monkeypatch.setattr(kills, "_begun", half)
    monkeypatch.setattr(kills, "_seconds", lambda _: 0.0)
    assert "half written" in str(kills.killed("compress", random.Random(0)))
