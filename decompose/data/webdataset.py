"""Read labelled images from tar shards in WebDataset's layout.

A sample is a run of members whose names differ only behind the first dot: ``0001.jpg`` and ``0001.cls``,
which holds the label as a number, or ``0001.json`` with a ``label`` in it. One pass over the headers
finds where each image lies, so that they are read in any order, by any number of processes, and
counted exactly.
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass, field
from glob import glob
from itertools import groupby
from pathlib import Path

from PIL import Image

from decompose.data.decoding import read_image
from decompose.data.images import EXTENSIONS, ImageDataset
from decompose.models.preprocessing import Transform
from decompose.utils.errors import DecomposeError, first_line, reason

_LABELS = (".cls", ".json")

_MOST_LABEL_BYTES = 2**20


def is_shards(data: str) -> bool:
    """Whether a path means shards: a ``.tar``, a pattern, an address, or a folder of such."""
    return data.endswith(".tar") or "*" in data or "://" in data or bool(glob(f"{data}/*.tar"))


def labelled_shards(data: str, transform: Transform) -> ImageDataset:
    """Load labelled images from tar shards.

    Args:
        data: a ``.tar`` file, a folder of such, a pattern such as ``shards/val-*.tar``, or either at
            an address that fsspec knows (``s3://bucket/val-*.tar``), fetched to the temporary
            folder first.
        transform: the preprocessing.

    Raises:
        DecomposeError: there is no shard, or no labelled image in them.
    """
    reader = _Reader()
    samples: list[tuple[str, int]] = []
    damaged: dict[str, str] = {}
    for shard in _local_files(data):
        found, reason = reader.index(shard)
        samples += found
        if reason is not None:
            damaged[shard] = f"cannot be read further: {reason}"
    if not samples:
        reasons = "".join(f"; {path}: {reason}" for path, reason in damaged.items())
        raise DecomposeError(f"{data}: its shards hold no labelled image{reasons}")
    return ImageDataset(samples, transform, read=reader, damaged=damaged)


@dataclass
class _Reader:
    """Reads images out of shards, by ``shard/member``."""

    _where: dict[str, tuple[str, int, int]] = field(default_factory=dict)

    def index(self, shard: str) -> tuple[list[tuple[str, int]], str | None]:
        """Index a shard: names and labels of its images, and the error that ends it early, if any."""
        samples = []
        try:
            with tarfile.open(shard, "r:") as tar:
                files, reason = _whole_files(tar, Path(shard).stat().st_size)
                for key, members in groupby(files, lambda member: _split(member.name)[0]):
                    parts = {_split(member.name)[1]: member for member in members}
                    image = next((m for end, m in parts.items() if end in EXTENSIONS), None)
                    cut_off = reason is not None and files[-1] in parts.values()
                    if image is None or (cut_off and not parts.keys() & {*_LABELS}):
                        continue
                    name = f"{shard}/{image.name}"
                    self._where[name] = (shard, image.offset_data, image.size)
                    samples.append((name, _label(tar, parts, f"{shard}/{key}")))
        # Headers that are damaged lead tarfile anywhere.
        except DecomposeError:
            raise
        except Exception as error:  # noqa: BLE001
            return samples, first_line(error)
        return samples, reason

    def __call__(self, name: str) -> Image.Image:
        """Read the image of a name."""
        shard, start, size = self._where[name]
        try:
            with open(shard, "rb") as file:
                file.seek(start)
                content = file.read(size)
        except OSError as error:
            raise DecomposeError(f"{name}: {reason(error)}") from None
        return read_image(name, io.BytesIO(content))


def _whole_files(tar: tarfile.TarFile, size: int) -> tuple[list[tarfile.TarInfo], str | None]:
    """The complete files of a shard, and why there are no more."""
    files: list[tarfile.TarInfo] = []
    try:
        for member in tar:
            if member.offset_data + member.size > size:
                return files, f"it ends within {member.name}"
            if member.isfile() and not _is_metadata(member.name):
                files.append(member)
    except Exception as error:  # noqa: BLE001
        return files, first_line(error)
    # Cut between two members, it only lacks the block of zeros that ends a whole one.
    return files, "it has no end" if tar.offset + tarfile.BLOCKSIZE > size else None


def _is_metadata(name: str) -> bool:
    """Whether a member is metadata that macOS adds beside each file."""
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith("._")


def _split(name: str) -> tuple[str, str]:
    """A member's key, and its suffix in lower case."""
    folder, slash, file = name.rpartition("/")
    stem, dot, ending = file.partition(".")
    return f"{folder}{slash}{stem}", f"{dot}{ending.lower()}"


def _label(tar: tarfile.TarFile, parts: dict[str, tarfile.TarInfo], key: str) -> int:
    for ending in _LABELS:
        opened = tar.extractfile(parts[ending]) if ending in parts else None
        if opened is None:
            continue
        try:
            content = json.loads(opened.read(_MOST_LABEL_BYTES))
            return _class_number(content["label"] if ending == ".json" else content)
        except (ValueError, LookupError, TypeError, RecursionError):
            raise DecomposeError(f"{key}{ending}: holds no label, a whole number from 0") from None
    raise DecomposeError(f"{key}: has no label; add a .cls or .json member beside it")


def _class_number(label: object) -> int:
    """A label in JSON, a number or its text."""
    number = int(label) if isinstance(label, str) and label.isdecimal() else label
    if type(number) is not int or not 0 <= number < 2**31:
        raise ValueError(label)
    return number


def _local_files(data: str) -> list[str]:
    if "://" in data:
        return _fetched(data)
    found = sorted(glob(f"{data}/*.tar" if Path(data).is_dir() else data))
    if not found:
        raise DecomposeError(f"{data}: no such shards")
    return found


def _fetched(address: str) -> list[str]:
    import fsspec

    try:
        paths = fsspec.open_local(f"simplecache::{address}")
    # Each of its file systems has errors of its own.
    except Exception as error:  # noqa: BLE001
        raise DecomposeError(f"{address}: cannot be fetched: {first_line(error)}") from None
    return [paths] if isinstance(paths, str) else sorted(paths)
