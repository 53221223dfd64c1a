"""Damaged ONNX files end in an error of one line or in a right result: no crash, no great memory."""

import json
import subprocess
import sys
from pathlib import Path

_MOST_BYTES = 2 << 30


def test_a_thousand_damaged_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.models.onnx.mutations", str(tmp_path), "0", "1000"]
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3]
    )
    assert run.returncode == 0, run.stderr[-2000:]
    report = json.loads(run.stdout)
    assert set(report["outcomes"]) <= {"refused", "agrees", "overflows"}
    assert report["outcomes"]["agrees"] > 100
    assert report["peak_bytes"] is None or report["peak_bytes"] < _MOST_BYTES
