"""What a record of ``decompose evaluate`` says, and of which model."""

from typing import Any

import pytest
from torch import nn

from decompose.evaluation.records import Metric, dataset_of, figures_of
from decompose.utils.errors import DecomposeError
from decompose.utils.hashing import weights_digest

NETWORK = nn.Linear(2, 2)
OTHERS = {"a.pth": "0", "small": weights_digest(NETWORK)}


def record(**others: Any) -> dict[str, Any]:
    return {"provenance": {"weights": OTHERS}, **others}


def test_a_network_is_known_by_its_weights() -> None:
    own = {"top1": {"value": 0.75, "low": 0.7, "high": 0.8}, "top5": {"value": 1.0}}
    found = figures_of(NETWORK, record(accuracies={"a.pth": {}, "small": own}))
    assert found == [Metric("top-1 accuracy", 0.75, 0.7, 0.8), Metric("top-5 accuracy", 1.0)]
    with pytest.raises(DecomposeError, match="it has other weights"):
        figures_of(nn.Linear(2, 2), record(accuracies={"small": own}))


def test_few_classes_have_no_top5() -> None:
    (found,) = figures_of(
        NETWORK, record(accuracies={"small": {"top1": {"value": 1}, "top5": None}})
    )
    assert found.title == "top-1 accuracy"


@pytest.mark.parametrize(
    "damaged",
    [
        {"accuracies": {}},
        {"accuracies": {"small": {"top1": {}, "top5": None}}},
        {"accuracies": {"small": {"top1": {"value": "🙂"}, "top5": None}}},
        {"accuracies": {"small": {"top1": {"value": float("nan")}, "top5": None}}},
        {"accuracies": {"small": {"top1": {"value": 10**400}, "top5": None}}},
        {"accuracies": {"small": {"top1": {"value": 0.5, "low": "x"}, "top5": None}}},
        {"precisions": {"small": None}},
        {"precisions": {"small": {"map_50": True, "map": 0.5, "map_voc2007": 0.5}}},
        {"accuracies": {"small": {}}, "provenance": []},
    ],
)
def test_damaged_records_are_told(damaged: dict[str, Any]) -> None:
    with pytest.raises(DecomposeError, match="none that decompose evaluate wrote"):
        figures_of(NETWORK, record(**damaged))


@pytest.mark.parametrize(
    ("data", "name", "split"),
    [
        ("/data/imagenet/val", "imagenet", "val"),
        ("/val", "val", None),
        (".", "unnamed", None),
        ("s3://bucket/faces-*.tar", "faces-*.tar", None),
    ],
)
def test_data_are_named_by_their_place(data: str, name: str, split: str | None) -> None:
    assert dataset_of({"data": data}) == (name, split)


def test_data_without_a_place_are_unnamed() -> None:
    assert dataset_of({}) == ("unnamed", None)
