"""A small folder in VOC's layout: scikit-image's photographs, with boxes drawn by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.data.cases import photograph

FOLDER = Path(__file__).parent / "voc"
"""Its annotations and its list; the photographs are not kept here."""

NAMES = ("astronaut", "chelsea", "coffee", "motorcycle_left", "brick")


def write_voc(folder: Path) -> Path:
    """Write the folder, its images from what is installed."""
    shutil.copytree(FOLDER, folder)
    (folder / "JPEGImages").mkdir()
    for name in NAMES:
        photograph(f"{name}.png").save(folder / "JPEGImages" / f"{name}.jpg")
    return folder
