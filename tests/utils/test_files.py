"""Files are whole or not there at all."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from decompose.utils.errors import DecomposeError
from decompose.utils.files import require_writable, write_text, writing, writing_together


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with writing(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half"
    assert list(tmp_path.iterdir()) == [path]


def test_others_may_read_what_they_could_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with writing(tmp_path / "a.safetensors") as temporary:
        save_file({"x": torch.zeros(1)}, temporary)
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(TypeError), writing(path) as temporary:
        temporary.write_text(None)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Let writing more to one file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("old")
    undone = []

    def write_both() -> None:
        with files_of_at_most(100), writing_together() as outputs:
            outputs.unless_written(lambda: undone.append("undone"))
            outputs.when_written(lambda: undone.append("done"))
            write_text(first, "new")
            write_text(second, "long" * 100)

    with pytest.raises(DecomposeError, match=r"b\.txt: cannot be written"):
        write_both()
    assert first.read_text() == "old"
    assert list(tmp_path.iterdir()) == [first]
    assert undone == ["undone"]
    with writing_together() as outputs:
        outputs.unless_written(lambda: undone.append("undone"))
        outputs.when_written(lambda: undone.append(first.read_text()))
        write_text(first, "new")
        # One that failed, and that nobody minds, is left out.
        with pytest.raises(ValueError, match="no value"), writing(second):
            raise ValueError("no value")
        assert first.read_text() == "old"
    assert undone == ["undone", "new"]
    assert list(tmp_path.iterdir()) == [first]


def test_a_device_that_takes_nothing_keeps_the_others_back(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"

    def write_both() -> None:
        with writing_together():
            write_text(path, "new")
            write_text("/dev/full", "new")

    with pytest.raises(DecomposeError, match="/dev/full: cannot be written: No space left"):
        write_both()
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(DecomposeError, match="there is no folder"):
        require_writable(tmp_path / "missing" / "a.txt")
    with pytest.raises(DecomposeError, match="is a folder"):
        write_text(tmp_path, "x")
    require_writable(None, tmp_path / "a.txt")
    assert not list(tmp_path.iterdir())


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "a.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert list((tmp_path / "there").iterdir()) == [target]


def test_a_pipe_and_a_device_are_written_to_not_replaced(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", tmp_path / "got"
    os.mkfifo(pipe)
    with subprocess.Popen(["cp", pipe, got]) as reader:
        write_text(pipe, "through")
        assert reader.wait(10) == 0
    assert pipe.is_fifo()
    assert got.read_text() == "through"
    device = Path(os.devnull)
    before = device.stat().st_ino
    write_text(device, "nowhere")
    assert device.is_char_device()
    assert device.stat().st_ino == before
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "got"}


def test_what_a_killed_process_left_is_removed_and_what_is_written_now_is_not(
    tmp_path: Path,
) -> None:
    killed, other = tmp_path / ".a.txt.1.partial", tmp_path / ".b.txt.1.partial"
    killed.write_text("half")
    other.write_text("half")
    with writing(tmp_path / "a.txt") as first:
        first.write_text("1")
        held = first.rename(tmp_path / ".a.txt.2.partial")
        write_text(tmp_path / "a.txt", "2")
        assert held.exists()
        held.rename(first)
    assert (tmp_path / "a.txt").read_text() == "1"
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", other.name}


def test_an_input_is_not_overwritten_under_any_name(tmp_path: Path) -> None:
    path, link = tmp_path / "a.safetensors", tmp_path / "b.json"
    path.write_text("weights")
    link.symlink_to(path)
    for output in (path, link):
        with pytest.raises(DecomposeError, match="is read by the same command"):
            require_writable(output, inputs=["torchvision:vgg16", None, path])
    require_writable(tmp_path / "c.json", inputs=[path])
