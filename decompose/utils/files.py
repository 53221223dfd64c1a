"""Write files atomically, and read JSON from untrusted files."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError

from decompose.utils.errors import DecomposeError, reason


class Outputs:
    """Files that are written beside their places until all of them are whole.

    Args:
        temporary: what is removed in the end, whatever happens.
    """

    def __init__(self, temporary: ExitStack) -> None:
        self._temporary = temporary
        self._whole: dict[Path, tuple[Path, Path]] = {}
        self._done: list[Callable[[], object]] = []
        self._undo = temporary.enter_context(ExitStack())

    def when_written(self, function: Callable[[], object]) -> None:
        """Call this once all files are in their places."""
        self._done.append(function)

    def unless_written(self, function: Callable[[], object]) -> None:
        """Call this if the files do not appear."""
        self._undo.callback(function)

    @contextmanager
    def beside(self, path: Path) -> Iterator[Path]:
        """Write a file to a temporary path: beside its place, where that is a plain file's."""
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        is_plain = _is_plain(target)
        enter = self._temporary.enter_context
        folder = target.parent if is_plain else Path(enter(TemporaryDirectory()))
        temporary = folder / f".{target.name}.{os.getpid()}.partial"
        if is_plain and temporary not in self._whole:
            self._temporary.callback(partial(temporary.unlink, missing_ok=True))
            enter(_held(temporary))
        yield temporary
        self._whole[temporary] = path, target

    def place(self) -> None:
        """Put all files in their places, first what may still fail: pipes and devices."""
        order = sorted(self._whole.items(), key=lambda item: _is_plain(item[1][1]))
        for temporary, (path, target) in order:
            with _naming(path):
                if _is_plain(target):
                    # safetensors writes for the owner alone.
                    temporary.chmod(0o666 & ~_umask())
                    os.replace(temporary, target)
                else:
                    with temporary.open("rb") as content, target.open("wb") as opened:
                        shutil.copyfileobj(content, opened)
        self._undo.pop_all()
        for function in self._done:
            function()


_OUTPUTS: ContextVar[Outputs | None] = ContextVar("outputs", default=None)


@contextmanager
def writing_together() -> Iterator[Outputs]:
    """Let all files that are written inside appear at its end, or none of them.

    An error inside, a full disk at the last of them for example, leaves what stood in their places.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with writing_together():
        ...     write_text(folder / "a.txt", "a")
        ...     print([*folder.glob("*.txt")])
        ...     write_text(folder / "b.txt", "b")
        []
        >>> sorted(path.name for path in folder.iterdir())
        ['a.txt', 'b.txt']
    """
    if (outer := _OUTPUTS.get()) is not None:
        yield outer
        return
    with ExitStack() as stack:
        outputs = Outputs(stack)
        token = _OUTPUTS.set(outputs)
        try:
            yield outputs
        finally:
            _OUTPUTS.reset(token)
        outputs.place()


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Write a file atomically: yields a temporary path that becomes ``path`` on success.

    An error inside leaves what stood at ``path`` as it was, and nothing beside it; what a killed process
    left half written is removed. The target of a link is replaced, not the link. What is no plain file,
    such as a pipe or ``/dev/null``, is written to. Inside ``writing_together`` it appears with the others.

    Raises:
        DecomposeError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    require_writable(path)
    with writing_together() as outputs, _naming(path), outputs.beside(path) as temporary:
        yield temporary


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say which file could not be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise DecomposeError(f"{path}: cannot be written: {reason(error)}") from error


def _is_plain(target: Path) -> bool:
    """Whether a path is a file's or nothing's yet, and so can be replaced."""
    return target.is_file() or not target.exists()


@contextmanager
def _held(temporary: Path) -> Iterator[None]:
    """Lock a temporary file while it is written, and remove those of its target that nobody holds."""
    name = temporary.name.removesuffix(f"{os.getpid()}.partial")
    for other in temporary.parent.iterdir():
        number = other.name.removeprefix(name).removesuffix(".partial")
        if other.name == f"{name}{number}.partial" and number.isdecimal():
            with suppress(OSError), other.open("rb") as opened:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                other.unlink(missing_ok=True)
    with temporary.open("wb") as opened:
        # A file system that has no locks does without.
        with suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def parse_json(text: str, source: str) -> Any:
    """Parse untrusted JSON.

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


def require_writable(*paths: Path | None, inputs: Sequence[str | Path | None] = ()) -> None:
    """Check, before long work, that output files can be written.

    Args:
        paths: of the files; ``None`` for those that nobody asked for.
        inputs: what is read before; those that are no paths are no files.

    Raises:
        DecomposeError: a folder does not exist or may not be written to, a path is one, is given
            twice, or is an input.
    """
    given = [path for path in paths if path is not None]
    for path in given:
        if any(_is_same(path, source) for source in inputs if source is not None):
            raise DecomposeError(f"{path}: is read by the same command; name another file")
        if given.count(path) > 1:
            raise DecomposeError(f"{path}: is named for two outputs")
        if path.is_dir():
            raise DecomposeError(f"{path}: is a folder; name a file")
        if not path.parent.is_dir():
            raise DecomposeError(f"{path}: cannot be written: there is no folder {path.parent}")
        if path.exists() and not path.is_file() and not os.access(path, os.W_OK):
            raise DecomposeError(f"{path}: cannot be written: no permission")
        if path.is_block_device() or path.is_socket():
            raise DecomposeError(f"{path}: is no file; name another")
        if not os.access(path.parent, os.W_OK):
            raise DecomposeError(f"{path}: cannot be written: no permission")


def _is_same(path: Path, source: str | Path) -> bool:
    """Whether an input is the file at a path, under whatever name."""
    try:
        return os.path.samefile(path, source)
    except (OSError, ValueError):
        return False
