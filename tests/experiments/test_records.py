"""Committed tables are written from a record, and checked against it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from decompose.utils.errors import DecomposeError
from decompose.utils.tables import Table
from experiments.common.records import render_or_check, take_up


def tables(record: Mapping[str, Any]) -> list[Table]:
    return [Table("first", ["", "n"], [("a", str(record["n"]))]), Table("second", [""], [("b",)])]


def test_a_written_table_passes_the_check_until_a_file_says_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, results, readme = (tmp_path / name for name in ("results.json", "results.md", "R.md"))
    record.write_text(json.dumps({"n": 3}))
    assert render_or_check([], tmp_path, readme, tables) == 0
    readme.write_text("Look:\n\n" + tables({"n": 3})[0].to_markdown() + "\nThere.")
    assert render_or_check(["--check"], tmp_path, readme, tables) == 0
    results.write_text(results.read_text() + "and more\n")
    assert render_or_check(["--check"], tmp_path, readme, tables) == 1
    assert str(results) in capsys.readouterr().err
    record.write_text(json.dumps({"n": 4}))
    assert render_or_check([], tmp_path, readme, tables) == 0
    assert render_or_check(["--check"], tmp_path, readme, tables) == 1
    assert str(readme) in capsys.readouterr().err


def test_a_record_is_taken_up_for_the_same_setting_alone(tmp_path: Path) -> None:
    path = tmp_path / "run" / "results.json"
    assert take_up(path, {"sizes": (1, 2)}) == {"setting": {"sizes": [1, 2]}}
    path.write_text(json.dumps({"setting": {"sizes": [1, 2]}, "a": 3}))
    assert take_up(path, {"sizes": (1, 2)})["a"] == 3
    with pytest.raises(DecomposeError, match="figures of another setting"):
        take_up(path, {"sizes": (1, 3)})
