"""What is written to descriptors is gone; what is written before and after stays."""

import os
import sys

import pytest

from decompose.utils.silenced_output import silenced


def test_nothing_written_meanwhile_is_seen(capfd: pytest.CaptureFixture[str]) -> None:
    print("before")
    with silenced():
        os.write(1, b"loud")
        os.write(2, b"louder")
    print("after")
    print("aside", file=sys.stderr)
    assert capfd.readouterr() == ("before\nafter\n", "aside\n")


def test_it_ends_with_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="inside"), silenced():
        raise RuntimeError("inside")
    os.write(1, b"after")
    assert capfd.readouterr().out == "after"
