"""Files that are whole or not there at all, and the JSON in them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from decompose.utils.errors import DecomposeError, reason


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Write beside, then rename: yields a temporary path that becomes ``path`` on success.

    An error inside leaves what stood at ``path`` as it was, and nothing beside it.

    Raises:
        DecomposeError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    require_writable(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        # safetensors writes for the owner alone.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise DecomposeError(f"{path}: cannot be written: {reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """The permissions that new files do not get; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole, in UTF-8."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def parse_json(text: str, source: str) -> Any:
    """Read JSON that may be anybody's.

    Args:
        text: of the JSON.
        source: the name to use in errors.

    Raises:
        DecomposeError: it is none, or nested so deep or of such long numbers that Python refuses it.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DecomposeError(f"{source}: is no JSON: {error}") from None


def require_writable(*paths: Path | None) -> None:
    """Check, before long work, that files can be written where they are to go.

    Raises:
        DecomposeError: a folder does not exist or may not be written to, a path is one, or is
            given twice.
    """
    given = [path for path in paths if path is not None]
    for path in given:
        if given.count(path) > 1:
            raise DecomposeError(f"{path}: is named for two outputs")
        if path.is_dir():
            raise DecomposeError(f"{path}: is a folder; name a file")
        if not path.parent.is_dir():
            raise DecomposeError(f"{path}: cannot be written: there is no folder {path.parent}")
        if not os.access(path.parent, os.W_OK):
            raise DecomposeError(f"{path}: cannot be written: no permission")
