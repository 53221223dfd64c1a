"""Packages that are not there are named with the extra that brings them."""

import json
from pathlib import Path

import pytest

from decompose.utils.errors import DecomposeError
from decompose.utils.optional_dependencies import required


def test_what_is_there_is_imported() -> None:
    assert required("json", "JSON", "none") is json


def test_what_is_missing_is_named() -> None:
    with pytest.raises(
        DecomposeError, match=r"^Foo is not installed: pip install 'torch-decompose\[bar\]'$"
    ):
        required("no_such_module.inside", "Foo", "bar")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        ("raise ImportError('libfoo.so: cannot open')", "libfoo.so: cannot open"),
    ],
)
def test_what_is_there_and_broken_is_not_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, reason: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_module.py").write_text(line)
    with pytest.raises(DecomposeError, match=f"^Foo cannot be imported: {reason}$"):
        required("broken_module", "Foo", "bar")
