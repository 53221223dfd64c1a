"""Find images in folders: unlabelled, in class folders, or as ImageNet or tar shards."""

from __future__ import annotations

import os
import re
from pathlib import Path

from decompose.data.images import EXTENSIONS, ImageDataset
from decompose.data.webdataset import is_shards, labelled_shards
from decompose.models.preprocessing import Transform
from decompose.utils.errors import DecomposeError, first_line

_SPLITS = ("train", "val")
_SYNSET = re.compile(r"n\d{8}")


def image_folder(folder: str | Path, transform: Transform, most: int | None = None) -> ImageDataset:
    """Load the images below a folder, without labels, in the order of their paths.

    Args:
        folder: where they lie, at any depth.
        transform: the preprocessing.
        most: number of images, the first ones; all by default.

    Raises:
        DecomposeError: there is no such folder, or no image in it.
    """
    folder = _existing_folder(folder)
    paths = _below(folder)
    if not paths:
        raise DecomposeError(f"{folder}: holds no image ({', '.join(EXTENSIONS)})")
    return ImageDataset([(str(path), -1) for path in paths[:most]], transform)


def labelled_images(data: str | Path, transform: Transform, split: str = "val") -> ImageDataset:
    """Load labelled images from tar shards (``webdataset``) or class folders.

    Args:
        data: where they lie.
        transform: the preprocessing.
        split: of data that has several, ``val`` or ``train``; shards have none.

    Raises:
        DecomposeError: there are none.
    """
    if is_shards(str(data)):
        return labelled_shards(str(data), transform)
    return labelled_folder(data, transform, split)


def labelled_folder(folder: str | Path, transform: Transform, split: str = "val") -> ImageDataset:
    """Load images from class folders, or ImageNet in torchvision's layout.

    Three layouts: ``folder/CLASS/*.jpg`` with labels in the order of the folders' names (for
    ImageNet's synset folders that is its label order; among them folders that are no synsets are left
    out, and said to be damaged); the same under ``folder/val``; and torchvision's, with ``meta.bin`` or
    the devkit beside ``val``.

    Raises:
        DecomposeError: there is no such folder, or no image in it.
    """
    folder = _existing_folder(folder)
    if (folder / "meta.bin").is_file() or (folder / "ILSVRC2012_devkit_t12.tar.gz").is_file():
        return _imagenet(folder, transform, split)
    if (folder / split).is_dir():
        folder = folder / split
    elif other := next((name for name in _SPLITS if _class_folders(folder / name)), None):
        # With folders inside, it is no class of that name.
        raise DecomposeError(f"{folder}: holds {other}, but no {split}")
    names = _class_folders(folder)
    if not names:
        raise DecomposeError(
            f"{folder}: holds no class folders; it should hold CLASS/PICTURE files"
        )
    synsets = [name for name in names if _SYNSET.fullmatch(name)]
    classes = synsets if 2 * len(synsets) > len(names) else names
    paths = [(path, label) for label, name in enumerate(classes) for path in _below(folder / name)]
    if not paths:
        raise DecomposeError(f"{folder}: its class folders hold no image")
    strays = {str(folder / name): "is no synset" for name in names if name not in classes}
    samples = [(str(path), label) for path, label in paths]
    return ImageDataset(samples, transform, classes, damaged=strays)


def _imagenet(folder: Path, transform: Transform, split: str) -> ImageDataset:
    from torchvision.datasets import ImageNet

    try:
        dataset = ImageNet(str(folder), split=split)
    # Its meta.bin may hold anything.
    except Exception as error:  # noqa: BLE001
        cause = first_line(error) if str(error) else "its meta.bin is damaged"
        raise DecomposeError(f"{folder}: is no ImageNet folder of torchvision: {cause}") from None
    return ImageDataset(dataset.samples, transform, dataset.wnids)


def _below(folder: Path) -> list[Path]:
    """Image files at any depth, in the order of their paths; links are followed, loops ended.

    Hidden folders, and what macOS adds to archives, hold copies and metadata, and are left out.
    """
    found: list[Path] = []
    seen = {os.path.realpath(folder)}
    for root, folders, files in os.walk(folder, followlinks=True):
        within = Path(os.path.realpath(root))
        # Folders themselves come before links to them.
        shown = sorted(
            filter(_is_shown, folders), key=lambda name: (Path(root, name).is_symlink(), name)
        )
        folders.clear()
        for name in shown:
            real = os.path.realpath(Path(root, name))
            if real not in seen and not within.is_relative_to(real):
                seen.add(real)
                folders.append(name)
        paths = (Path(root, name) for name in files if not name.startswith("._"))
        found += (path for path in paths if path.suffix.lower() in EXTENSIONS and path.is_file())
    return sorted(found)


def _is_shown(folder: str) -> bool:
    return not folder.startswith(".") and folder != "__MACOSX"


def _class_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, hidden ones left out; empty if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and _is_shown(path.name))


def _existing_folder(folder: str | Path) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise DecomposeError(f"{folder}: no such folder")
    return folder
