"""Mean average precision on real photographs, against what is counted by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from decompose.data.voc import DetectionDataset, voc_dataset
from decompose.data.voc_annotations import VOC_CLASSES
from decompose.evaluation.detection import categories_of, evaluate_detectors
from decompose.models.architectures import Architecture
from decompose.utils.errors import DecomposeError
from tests.data.voc_cases import NAMES, write_voc

CATEGORIES = categories_of(Architecture.parse("torchvision:ssd300_vgg16"))
NOTHING: list[Any] = [[] for _ in NAMES]

PERSON, CAT, CUP, SPOON = (
    [17, 14, 362, 512],
    [0, 0, 398, 300],
    [172, 17, 408, 307],
    [325, 65, 425, 326],
)
MOTORCYCLE, BENCH, BICYCLE = [91, 14, 684, 449], [40, 87, 280, 308], [0, 106, 147, 230]
"""The boxes of the annotations, between lines."""


class Says(nn.Module):
    """A detector that returns given boxes of each image: a class, a score and corners."""

    def __init__(self, given: Sequence[Sequence[tuple[str, float, list[int]]]]) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.given = iter(given)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """One dict an image ``(3, H, W)``."""
        return [self._boxes(next(self.given)) for _ in images]

    def _boxes(self, given: Sequence[tuple[str, float, list[int]]]) -> dict[str, Tensor]:
        return {
            "boxes": torch.tensor([corners for _, _, corners in given]).float().view(-1, 4),
            "labels": torch.tensor([CATEGORIES.index(name) for name, _, _ in given]).long(),
            "scores": torch.tensor([score for _, score, _ in given]),
        }


RIGHT = [
    [("person", 0.9, PERSON)],
    [("cat", 0.9, CAT)],
    [("cup", 0.9, CUP), ("spoon", 0.9, SPOON)],
    [("motorcycle", 0.9, MOTORCYCLE), ("bench", 0.9, BENCH)],
    [],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("data") / "VOC")


@pytest.fixture
def scenes(folder: Path) -> DetectionDataset:
    return voc_dataset(folder, pil_to_tensor)


def judge(scenes: DetectionDataset, **given: Any) -> Any:
    models = {name: Says(boxes) for name, boxes in given.items()}
    return evaluate_detectors(models, scenes, dict.fromkeys(given, CATEGORIES), batch_size=2)


def test_precision_is_what_is_counted_by_hand(scenes: DetectionDataset) -> None:
    shifted = [PERSON[0] + 69, PERSON[1], PERSON[2] + 69, PERSON[3]]
    # 345 of its 414 columns overlap: an IoU of 276 / 414 = 2/3, enough for 0.5, 0.55, 0.6, 0.65.
    given = [
        [("person", 0.9, shifted)],
        [("cat", 0.5, CAT), ("cat", 0.8, [300, 200, 400, 290])],  # a false one before the right one
        [("cup", 0.9, CUP)],  # the spoon is missed
        [("motorcycle", 0.9, MOTORCYCLE), ("bench", 0.9, BENCH)],
        [("person", 0.3, [10, 10, 90, 90])],  # false, but after all persons were found
    ]
    found = judge(scenes, network=given)
    precision = found.precisions["network"]
    assert precision.ap_50 == pytest.approx(
        {"bench": 1, "cat": 0.5, "cup": 1, "motorbike": 1, "person": 1, "spoon": 0}
    )
    assert precision.map_50 == precision.map_voc2007 == pytest.approx(4.5 / 6)
    assert precision.map == pytest.approx((1 + 0.5 + 1 + 1 + 0.4 + 0) / 6)
    assert (found.num_pictures, found.num_objects, len(found.classes)) == (5, 6, 6)


def test_recall_is_read_at_more_points_by_coco_than_by_voc(scenes: DetectionDataset) -> None:
    """One of two persons found first, the other never: recall reaches 0.5, 51 of 101 points and 6 of 11."""
    scenes._objects = {path: scenes.objects(0) for path, _ in scenes.samples[:2]}
    scenes._images.samples = scenes._images.samples[:2]
    precision = judge(scenes, network=[[("person", 0.9, PERSON)], []]).precisions["network"]
    assert precision.map_50 == pytest.approx(51 / 101)
    assert precision.map_voc2007 == pytest.approx(6 / 11)


def test_difficult_objects_neither_count_nor_punish(scenes: DetectionDataset) -> None:
    coffee = [*RIGHT[2], ("dining table", 0.95, [0, 0, 600, 400])]
    twice = [("bicycle", 0.99, BICYCLE), ("bicycle", 0.98, BICYCLE)]
    given = [RIGHT[0], RIGHT[1], coffee, [*RIGHT[3], *twice], []]
    found = judge(scenes, right=RIGHT, more=given)
    assert found.precisions["more"] == found.precisions["right"]
    assert found.precisions["right"].map == pytest.approx(1)
    assert "diningtable" not in found.classes


def test_an_object_is_found_once(scenes: DetectionDataset) -> None:
    cats = [("cat", 0.5, CAT), ("cat", 0.9, CAT)]
    after = judge(scenes, network=[RIGHT[0], cats, *RIGHT[2:]]).precisions["network"]
    assert after.ap_50["cat"] == pytest.approx(1)
    elsewhere = [("cat", 0.95, CAT)]  # in an image without one
    before = judge(scenes, network=[RIGHT[0], cats, *RIGHT[2:4], elsewhere]).precisions["network"]
    assert before.ap_50["cat"] == pytest.approx(0.5)


def test_networks_are_compared_in_one_table(scenes: DetectionDataset) -> None:
    found = judge(scenes, right=RIGHT, nothing=NOTHING)
    assert found.precisions["nothing"].map_50 == 0
    assert "-100.00" in str(found.table())
    assert found.to_dict()["precisions"]["right"]["ap_50"]["cat"] == pytest.approx(1)


def test_damaged_images_and_annotations_are_named_and_do_not_count(tmp_path: Path) -> None:
    folder = write_voc(tmp_path / "VOC")
    (folder / "JPEGImages" / "chelsea.jpg").write_text("no image")
    (folder / "Annotations" / "coffee.xml").write_text("<annotation><object>")
    scenes = voc_dataset(folder, pil_to_tensor)
    found = judge(scenes, network=[RIGHT[0], RIGHT[3], RIGHT[4]])
    assert found.precisions["network"].map == pytest.approx(1)
    assert found.classes == ["bench", "motorbike", "person"]
    assert {Path(path).name: why.split(":")[0] for path, why in found.unreadable.items()} == {
        "chelsea.jpg": "is no image",
        "coffee.xml": "is no annotation",
    }


def test_classes_have_voc_s_names_or_coco_s(scenes: DetectionDataset) -> None:
    voc = categories_of(Architecture.parse("torchvision:ssd300_vgg16,weights=none,num_classes=21"))
    assert voc == ["__background__", *VOC_CLASSES]
    with pytest.raises(DecomposeError, match="network: does not know the class 'bench'"):
        evaluate_detectors({"network": Says(RIGHT)}, scenes, {"network": voc})
    with pytest.raises(DecomposeError, match="the names of its classes are not known"):
        categories_of(Architecture.parse("torchvision:ssd300_vgg16,num_classes=7"))


class Gives(nn.Module):
    """Gives something else than boxes."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.given = given

    def forward(self, images: list[Tensor]) -> Any:
        """Whatever it holds."""
        return self.given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(1, 10), "network: gives a Tensor, not a list"),
        ([{"out": torch.zeros(1)}], "network: gives no boxes"),
        (
            [{"boxes": torch.zeros(1, 4), "labels": torch.tensor([99]), "scores": torch.ones(1)}],
            "labels below 91",
        ),
        (
            [
                {
                    "boxes": torch.full((1, 4), float("nan")),
                    "labels": torch.tensor([1]),
                    "scores": torch.ones(1),
                }
            ],
            "not finite",
        ),
    ],
)
def test_networks_that_are_no_detectors(scenes: DetectionDataset, given: Any, message: str) -> None:
    with pytest.raises(DecomposeError, match=message):
        evaluate_detectors({"network": Gives(given)}, scenes, {"network": CATEGORIES})


def test_a_real_detector_goes_through(scenes: DetectionDataset) -> None:
    name = "torchvision:ssdlite320_mobilenet_v3_large,weights=none"
    architecture = Architecture.parse(name)
    scenes = scenes.with_transforms(architecture.transform())
    found = evaluate_detectors({name: architecture.build()}, scenes, {name: CATEGORIES})
    assert 0 <= found.precisions[name].map <= found.precisions[name].map_50 <= 1
    assert found.num_pictures == 5
