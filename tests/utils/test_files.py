"""Files are whole or not there at all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from decompose.utils.errors import DecomposeError
from decompose.utils.files import require_writable, write_text, writing


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


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(DecomposeError, match="there is no folder"):
        require_writable(tmp_path / "missing" / "a.txt")
    with pytest.raises(DecomposeError, match="is a folder"):
        write_text(tmp_path, "x")
    require_writable(None, tmp_path / "a.txt")
    assert not list(tmp_path.iterdir())
