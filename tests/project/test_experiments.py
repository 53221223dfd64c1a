"""Committed tables follow from committed records."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "experiments").glob("**/table.py"))
]


@pytest.mark.parametrize("module", MODULES)
def test_tables_follow_from_their_records(module: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", module, "--check"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert ended.returncode == 0, ended.stderr
