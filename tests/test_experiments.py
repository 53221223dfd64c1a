"""Committed tables follow from committed records."""

import subprocess
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.mark.parametrize(
    "script",
    sorted(EXPERIMENTS.glob("**/table.py")),
    ids=lambda path: str(path.parent.relative_to(EXPERIMENTS)),
)
def test_tables_follow_from_their_records(script: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(script), "--check"], check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
