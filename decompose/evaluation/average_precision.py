"""Compute the average precision of boxes, as COCO and as VOC 2007 define it.

Boxes of a class are taken in the order of their scores; one is right where it overlaps an object that
none before it found, by an intersection over union (IoU) of a threshold at least. Precision is then a
function of recall, and its average is taken

- at 101 points of recall and an IoU of 0.5 (``map_50``), or of 0.5, 0.55, ..., 0.95 in the mean
  (``map``): COCO (Lin et al. 2014, arXiv 1405.0312), by torchmetrics and pycocotools;
- at 11 points and an IoU of 0.5 (``map_voc2007``): VOC 2007 (Everingham et al. 2010, IJCV 88, section 4.2).

Of each class an image's 100 highest boxes count. Where VOC says how difficult objects are dealt with,
all three follow it: they need not be found, and a box that overlaps one of them the most, by half, is
neither right nor wrong. COCO's own way out, a crowd region, would let off any box that lies inside one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from decompose.utils.optional_dependencies import required

# In double precision as pycocotools has them: torchmetrics' own are of single precision, so that a recall
# of exactly 0.3 falls short of the point 0.3.
_OVERLAPS = np.linspace(0.5, 0.95, 10).tolist()
_RECALLS = np.linspace(0, 1, 101).tolist()
_LEAST_OVERLAP = 0.5
_EVERY_TENTH = slice(None, None, 10)
"""Indices of VOC 2007's 11 points of recall among COCO's 101."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes in one image.

    Attributes:
        corners: left, upper, right and lower edge in pixels, ``(N, 4)``.
        labels: their classes, ``(N,)`` int64.
        scores: how sure a model is of each, ``(N,)``; 1 for what is there.
    """

    corners: Tensor
    labels: Tensor
    scores: Tensor

    def where(self, chosen: Tensor) -> Boxes:
        """The boxes that a mask ``(N,)`` selects."""
        return Boxes(self.corners[chosen], self.labels[chosen], self.scores[chosen])


@dataclass(frozen=True)
class DetectionScores:
    """Mean average precision over the classes that have objects.

    Attributes:
        map_50: at an IoU of 0.5, 101 points of recall.
        map: over IoUs from 0.5 to 0.95, 101 points of recall.
        map_voc2007: at an IoU of 0.5, 11 points of recall.
        ap_50: what ``map_50`` is the mean of, by class.
    """

    map_50: float
    map: float
    map_voc2007: float
    ap_50: Mapping[str, float]


def average_precision(
    found: Sequence[Boxes],
    there: Sequence[Boxes],
    difficult: Sequence[Tensor],
    classes: Sequence[str],
) -> DetectionScores:
    """Compute the average precision of a model's boxes.

    Args:
        found: in each image.
        there: the objects of each image; one at least is not difficult.
        difficult: which of them are, ``(N,)`` bool.
        classes: names by label.

    Raises:
        DecomposeError: pycocotools is not installed.
    """
    required("pycocotools", "pycocotools", "detection")
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(
        iou_thresholds=_OVERLAPS,
        rec_thresholds=_RECALLS,
        extended_summary=True,
        sync_on_compute=False,
    )
    metric.warn_on_many_detections = False
    for boxes, objects, hard in zip(found, there, difficult, strict=True):
        counted = boxes.where(~_excused(boxes, objects, hard))
        metric.update([_as_item(counted)], [_as_item(objects.where(~hard))])
    result = metric.compute()
    # By IoU, recall and class, for objects of all sizes.
    precision = result["precision"][:, :, :, 0, -1]
    labels: list[int] = result["classes"].view(-1).tolist()
    # A class without objects has -1 everywhere.
    per_class = {
        classes[k]: precision[:, :, i] for i, k in enumerate(labels) if precision[0, 0, i] >= 0
    }
    every = torch.stack(list(per_class.values()))
    return DetectionScores(
        float(every[:, 0].mean()),
        float(every.mean()),
        float(every[:, 0, _EVERY_TENTH].mean()),
        {name: float(values[0].mean()) for name, values in per_class.items()},
    )


def _excused(boxes: Boxes, objects: Boxes, difficult: Tensor) -> Tensor:
    """Which boxes match a difficult object best, which neither counts for nor against a model."""
    from torchvision.ops import box_iou

    if not len(boxes.labels) or not difficult.any():
        return torch.zeros(len(boxes.labels), dtype=torch.bool)
    overlap = box_iou(boxes.corners, objects.corners)
    overlap[boxes.labels.unsqueeze(1) != objects.labels] = 0
    most, nearest = overlap.max(1)
    return (most >= _LEAST_OVERLAP) & difficult[nearest]


def _as_item(boxes: Boxes) -> dict[str, Tensor]:
    return {"boxes": boxes.corners, "labels": boxes.labels, "scores": boxes.scores}
