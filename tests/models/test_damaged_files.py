"""Whatever became of a saved file, loading it ends in one line or in a model that works."""

import json
import subprocess
import sys
from pathlib import Path

from tests.models.mutations import NUM_MUTATIONS


def test_a_thousand_damaged_files(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.models.mutations", str(tmp_path)]
    printed = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    found = json.loads(printed)
    assert found["wrong"] == []
    # Most is noticed; some changes, such as those to notes for readers, change nothing.
    assert found["counts"]["refused"] + found["counts"]["loaded"] == NUM_MUTATIONS
    assert found["counts"]["refused"] > 0.9 * NUM_MUTATIONS
    assert {path.name for path in tmp_path.iterdir()} == {
        "mixed.safetensors",
        "named.safetensors",
        "mutated.safetensors",
    }
