"""Read a model's figures from a record of ``decompose evaluate``, which identifies it by its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from decompose.utils.errors import DecomposeError, reason
from decompose.utils.files import parse_json
from decompose.utils.hashing import weights_digest

_SPLITS = ("train", "val", "validation", "test")

_PRECISIONS = {
    "map_50": "mAP at IoU 0.5",
    "map": "mAP at IoU 0.5:0.95",
    "map_voc2007": "mAP of VOC 2007",
}

_ENDS = ("low", "high")


class Metric(NamedTuple):
    """A measured share, such as top-1 accuracy.

    Attributes:
        title: its name in tables.
        value: the share.
        low: where it lies at least, with 95 % confidence, if known.
        high: where it lies at most.
    """

    title: str
    value: float
    low: float | None = None
    high: float | None = None


def read_record(path: Path) -> dict[str, Any]:
    """Read a record that ``decompose evaluate`` wrote.

    Raises:
        DecomposeError: there is no such file, or it is no such record.
    """
    try:
        record = parse_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DecomposeError(f"{path}: cannot be read: {reason(error)}") from None
    if not isinstance(record, dict) or not {"accuracies", "precisions"} & set(record):
        raise DecomposeError(f"{path}: is no record of decompose evaluate")
    return record


def figures_of(model: nn.Module, record: Mapping[str, Any]) -> list[Metric]:
    """Read a model's figures from a record, which identifies it by its weights.

    Raises:
        DecomposeError: the record is of other weights, or none that ``decompose evaluate`` wrote.
    """
    digest = weights_digest(model)
    try:
        known = record["provenance"]["weights"]
        name = next((name for name, other in known.items() if other == digest), None)
        if name is None:
            raise DecomposeError("the record is not of this model: it has other weights")
        if "accuracies" in record:
            return _accuracies(record["accuracies"][name])
        return _precisions(record["precisions"][name])
    except (KeyError, TypeError, AttributeError):
        raise DecomposeError("the record is none that decompose evaluate wrote") from None


def dataset_of(record: Mapping[str, Any]) -> tuple[str, str | None]:
    """Name of a record's dataset, and its split where the folder's name is one."""
    path = Path(str(record.get("data", "")))
    if path.name in _SPLITS and path.parent.name:
        return path.parent.name, path.name
    return path.name or "unnamed", None


def _accuracies(own: Mapping[str, Any]) -> list[Metric]:
    return [
        Metric(
            f"top-{k} accuracy",
            _share(estimate["value"]),
            *(None if estimate.get(end) is None else _share(estimate[end]) for end in _ENDS),
        )
        for k, estimate in ((1, own["top1"]), (5, own["top5"]))
        if estimate is not None
    ]


def _precisions(own: Mapping[str, Any]) -> list[Metric]:
    # Where there is no object there is no precision, and torchmetrics says -1.
    return [Metric(title, _share(own[key])) for key, title in _PRECISIONS.items() if own[key] != -1]


def _share(value: Any) -> float:
    """A share out of a record; ``TypeError`` where it is none."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not -1e-9 <= value <= 1 + 1e-9
    ):
        raise TypeError(f"{value!r} is no share")
    return float(value)
