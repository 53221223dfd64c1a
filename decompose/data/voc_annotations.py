"""Read Pascal VOC's annotations: classes and boxes of an image's objects (Everingham et al. 2010, IJCV 88).

An annotation is an XML file with an ``object`` for each box::

    <object>
        <name>cat</name>
        <difficult>0</difficult>
        <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>398</xmax><ymax>300</ymax></bndbox>
    </object>

Pixels are counted from 1 there, and a box includes its last ones; here a box is a rectangle between
lines, the image's corner at 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decompose.utils.errors import DecomposeError, first_line, reason
from decompose.utils.optional_dependencies import required

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""VOC's own classes, in its order."""

_IN_COCO = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}

_CORNERS = "xmin", "ymin", "xmax", "ymax"


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The objects of an image.

    Attributes:
        names: their classes.
        boxes: left, upper, right and lower edge in pixels, ``(N, 4)``.
        difficult: whether each is one that nobody is expected to find, ``(N,)`` bool.
    """

    names: tuple[str, ...]
    boxes: Tensor
    difficult: Tensor


def read_objects(path: str | Path) -> GroundTruth:
    """Read an annotation; XML entities and references in it are refused.

    Raises:
        DecomposeError: it cannot be read, it is none, or it declares a document type, which VOC's do
            not; or defusedxml is not installed.
    """
    parser = required("defusedxml.ElementTree", "defusedxml", "detection")
    # A named pipe would be waited for.
    if Path(path).exists() and not Path(path).is_file():
        raise DecomposeError(f"{path}: cannot be read: is no file")
    try:
        root = parser.parse(str(path), forbid_dtd=True).getroot()
    except OSError as error:
        raise DecomposeError(f"{path}: cannot be read: {reason(error)}") from None
    # What is forbidden or malformed, each in its own words.
    except Exception as error:  # noqa: BLE001
        raise DecomposeError(f"{path}: is no annotation: {first_line(error)}") from None
    try:
        found = [_object(element) for element in root.findall("object")]
    except (ValueError, OverflowError) as error:
        raise DecomposeError(f"{path}: is no annotation: {error!s}") from None
    return GroundTruth(
        tuple(name for name, _, _ in found),
        torch.tensor([box for _, box, _ in found]).view(-1, 4),
        torch.tensor([difficult for _, _, difficult in found], dtype=torch.bool),
    )


def label_of(name: str, categories: Sequence[str]) -> int | None:
    """The label of a class among a model's categories, in VOC's name or in COCO's; ``None`` if none."""
    known = next((word for word in (name, _IN_COCO.get(name)) if word in categories), None)
    return None if known is None else categories.index(known)


def _object(element: Element) -> tuple[str, list[float], bool]:
    name = _text(element, "name")
    box = element.find("bndbox")
    if box is None:
        raise ValueError(f"a {name} has no bndbox")
    left, top, right, bottom = (float(_text(box, corner)) for corner in _CORNERS)
    # As a whole, so that NaN fails as well; what many tools write begins at 0.
    if not (0 <= left <= right < 1e6 and 0 <= top <= bottom < 1e6 and right * bottom > 0):
        raise ValueError(f"a {name} has the box {left:g}, {top:g}, {right:g}, {bottom:g}")
    return (
        name,
        [max(left - 1, 0), max(top - 1, 0), right, bottom],
        element.findtext("difficult", "0").strip() == "1",
    )


def _text(element: Element, tag: str) -> str:
    text = element.findtext(tag, "").strip()
    if not text:
        raise ValueError(f"{element.tag} has no {tag}")
    return text
