"""VOC's annotations, also those that nobody should trust."""

import os
from pathlib import Path

import pytest
import torch

from decompose.data.voc_annotations import VOC_CLASSES, label_of, read_objects
from decompose.models.architectures import Architecture
from decompose.utils.errors import DecomposeError
from tests.data.voc_cases import FOLDER, NAMES


def test_boxes_lie_between_lines() -> None:
    shown = read_objects(FOLDER / "Annotations" / "coffee.xml")
    assert shown.names == ("diningtable", "cup", "spoon")
    assert shown.boxes[0].tolist() == [0, 0, 600, 400]
    assert shown.difficult.tolist() == [True, False, False]


@pytest.mark.parametrize("name", NAMES)
def test_boxes_lie_within_their_images(name: str) -> None:
    shown = read_objects(FOLDER / "Annotations" / f"{name}.xml")
    assert shown.boxes.shape == (len(shown.names), 4)
    assert (shown.boxes[:, :2] < shown.boxes[:, 2:]).all()
    assert (shown.boxes >= 0).all()


def test_an_empty_image_has_no_objects() -> None:
    shown = read_objects(FOLDER / "Annotations" / "brick.xml")
    assert (shown.names, shown.boxes.shape) == ((), (0, 4))
    assert shown.difficult.dtype is torch.bool


def test_all_of_voc_s_classes_are_coco_s() -> None:
    categories = Architecture.parse("torchvision:fasterrcnn_resnet50_fpn").categories()
    labels = [label_of(name, categories) for name in VOC_CLASSES]
    assert None not in labels
    assert len(set(labels)) == len(VOC_CLASSES)
    assert label_of("tvmonitor", categories) == categories.index("tv")
    assert label_of("unicorn", categories) is None


OBJECT = "<name>cat</name><bndbox>{}</bndbox>"
CORNERS = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"

LAUGHS = """<?xml version="1.0"?>
<!DOCTYPE annotation [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotation><object><name>&b;</name></object></annotation>"""
READS = """<!DOCTYPE annotation [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<annotation><object><name>&a;</name></object></annotation>"""


def of_box(*corners: object) -> str:
    inside = OBJECT.format(CORNERS.format(*corners))
    return f"<annotation><object>{inside}</object></annotation>"


def test_boxes_may_begin_at_zero(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(of_box(0, 0.5, 9, 8))
    assert read_objects(path).boxes.tolist() == [[0, 0, 9, 8]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no element found"),
        ("<annotation><object>", "no element found"),
        ("\x00\x01", "not well-formed"),
        (LAUGHS, "DTDForbidden"),
        (READS, "DTDForbidden"),
        ("<annotation><object/></annotation>", "object has no name"),
        ("<annotation><object><name>cat</name></object></annotation>", "a cat has no bndbox"),
        (of_box(1, 1, 9, ""), "bndbox has no ymax"),
        (of_box(1, 1, 9, "nine"), "could not convert"),
        (of_box(9, 1, 1, 9), "a cat has the box 9, 1, 1, 9"),
        (of_box(1, 1, "nan", 9), "a cat has the box"),
        (of_box(1, 1, "inf", 9), "a cat has the box"),
        (of_box(-4, 1, 9, 9), "a cat has the box"),
        (of_box(0, 1, 0, 9), "a cat has the box"),
    ],
)
def test_what_is_no_annotation(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(DecomposeError, match=rf"a\.xml: is no annotation: .*{message}") as caught:
        read_objects(path)
    assert "\n" not in str(caught.value)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DecomposeError, match=r"missing\.xml: cannot be read: No such file"):
        read_objects(tmp_path / "missing.xml")


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.xml")
    with pytest.raises(DecomposeError, match="is no file"):
        read_objects(tmp_path / "a.xml")
