"""The newest undamaged checkpoint comes back."""

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from decompose.training.checkpoints import Checkpoints
from decompose.utils.errors import DecomposeError
from decompose.utils.hashing import content_digest


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.newest() is None
    for step in (0, 7, 123456789):
        checkpoints.keep(step, {"step": step})
    assert [path.name for path in checkpoints.paths()] == [
        "step-00000007.safetensors",
        "step-123456789.safetensors",
    ]
    assert checkpoints.newest() == {"step": 123456789}


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "other"])
def test_a_damaged_one_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.keep(step, {"step": step, "weights": torch.randn(50)})
    path = checkpoints.paths()[-1]
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-9] ^= 1
    path.write_bytes(
        {"cut": content[:-20], "emptied": b"", "other": b"not a checkpoint"}.get(damage, content)
    )
    with pytest.warns(UserWarning, match="step-00000002.*damaged.*falling back to the one before"):
        state = checkpoints.newest()
    assert state is not None
    assert state["step"] == 1


def test_when_all_are_damaged_there_is_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.keep(1, {"step": 1})
    checkpoints.paths()[0].write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged.*; there is none before it"):
        assert checkpoints.newest() is None
    assert not checkpoints.paths()


def test_one_that_cannot_be_read_just_now_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise OSError("Input/output error (os error 5)")

    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.keep(step, {"step": step})
    with monkeypatch.context() as patch:
        patch.setattr("decompose.utils.state_files.safe_open", failing)
        with pytest.raises(
            DecomposeError, match=r"00000002\.safetensors: cannot be read: Input/out"
        ):
            checkpoints.newest()
    assert checkpoints.newest() == {"step": 2}


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.keep(1, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DecomposeError, match=r"step-00000002.safetensors: cannot be written"):
            checkpoints.keep(2, {"step": 2, "weights": torch.randn(5000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.safetensors"]
    assert checkpoints.newest() == {"step": 1}


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.keep(1, {"step": 1})
    (tmp_path / ".step-00000002.safetensors.17.partial").write_bytes(b"half")
    assert checkpoints.newest() == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "content", ["[]", "{", "3", '{"mapping": 3}', '{"tensor": "x"}', "[" * 100_000]
)
def test_other_content_with_a_digest_of_its_own_is_none(tmp_path: Path, content: str) -> None:
    metadata = {"content": content, "sha256": content_digest(content, {})}
    save_file({}, tmp_path / "step-00000001.safetensors", metadata)
    with pytest.warns(UserWarning, match="is no checkpoint"):
        assert Checkpoints(tmp_path).newest() is None


def test_one_run_at_a_time_writes_to_a_folder_and_leaves_no_empty_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run")
    with checkpoints.held() as first, checkpoints.held() as second:
        assert (first, second) == (True, False)
    assert not checkpoints.folder.exists()
    with checkpoints.held() as third:
        assert third
        checkpoints.keep(1, {"step": 1})
    assert checkpoints.newest() == {"step": 1}
