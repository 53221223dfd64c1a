"""Images for tests: real photographs made small, and a folder of modes that are not RGB."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor


def photograph(file: str, most: int | None = None) -> Image.Image:
    """One of scikit-image's photographs, as RGB, of at most ``most`` pixels a side."""
    with resources.as_file(resources.files("skimage.data") / file) as path:
        image = Image.open(path).convert("RGB")
    if most is not None:
        image.thumbnail((most, most))
    return image


def write_class_folders(folder: Path) -> Path:
    """Two class folders with a grey, a transparent and a palette image."""
    for name, mode in (("cat/a.png", "L"), ("cat/b.PNG", "RGBA"), ("dog/c.png", "P")):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        Image.new(mode, (9, 7)).save(path, "PNG")
    return folder


def to_tensor(image: Image.Image) -> Tensor:
    """Preprocess as simply as can be: ``(3, 8, 8)``."""
    return pil_to_tensor(image.resize((8, 8))).float()
