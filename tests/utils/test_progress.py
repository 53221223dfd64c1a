"""Progress bars, and what a log hears instead."""

import pytest

from decompose.utils import progress
from decompose.utils.progress import track, watching
from tests.cli.cases import Captured


def test_a_log_hears_nothing_of_short_work(capsys: Captured) -> None:
    assert list(track("abc", "weighing")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_a_log_hears_how_far_long_work_is(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_EVERY_S", 0.0)
    assert list(track("ab", "weighing")) == ["a", "b"]
    assert capsys.readouterr().err == "weighing: 0 of 2\nweighing: 1 of 2\n"
    assert list(track(iter("a"), "weighing")) == ["a"]
    assert capsys.readouterr().err == "weighing: 0\n"
    with watching("training", done=4, total=9) as advance:
        advance("loss 1.2")
    assert capsys.readouterr().err == "training: 5 of 9 loss 1.2\n"
