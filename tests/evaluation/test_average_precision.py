"""Average precision, against VOC's devkit transcribed."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from decompose.evaluation.average_precision import Boxes, average_precision


def voc2007_precision(
    found: Sequence[Boxes], there: Sequence[Boxes], difficult: Sequence[Tensor]
) -> float:
    """VOCevaldet.m of the VOC 2007 devkit for one class, line by line."""
    ranked = sorted(
        (
            (float(score), place, corners)
            for place, boxes in enumerate(found)
            for corners, score in zip(boxes.corners, boxes.scores, strict=True)
        ),
        key=lambda box: -box[0],
    )
    positives = sum(int((~hard).sum()) for hard in difficult)
    taken = [torch.zeros(len(hard), dtype=torch.bool) for hard in difficult]
    right, wrong = np.zeros(len(ranked)), np.zeros(len(ranked))
    for index, (_, place, corners) in enumerate(ranked):
        overlap = box_iou(corners[None], there[place].corners)[0]
        nearest = int(overlap.argmax()) if len(overlap) else -1
        if len(overlap) and overlap[nearest] >= 0.5:
            if difficult[place][nearest]:
                continue
            right[index], wrong[index] = ~taken[place][nearest], taken[place][nearest]
            taken[place][nearest] = True
        else:
            wrong[index] = 1
    recall = right.cumsum() / positives
    precision = right.cumsum() / np.maximum(right.cumsum() + wrong.cumsum(), 1e-9)
    points = (precision[recall >= t].max(initial=0) for t in np.arange(11) / 10)
    return float(np.mean(list(points)))


@pytest.mark.parametrize("seed", range(8))
def test_eleven_points_are_the_devkit_s(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def boxes(corners: Tensor) -> Boxes:
        scores = torch.rand(len(corners), generator=generator)
        return Boxes(corners, torch.zeros(len(corners), dtype=torch.int64), scores)

    found, there, difficult = [], [], []
    for _ in range(12):
        # Objects stand apart, on a row; boxes near them, some twice, and some where there is nothing.
        places = 100 * torch.arange(6)[torch.rand(6, generator=generator) < 0.5].float()
        corners = torch.stack([places, places * 0, places + 60, places * 0 + 60], 1)
        there.append(boxes(corners))
        difficult.append(torch.rand(len(corners), generator=generator) < 0.3)
        near = corners.repeat(2, 1) + 25 * torch.rand(2 * len(corners), 1, generator=generator)
        false = torch.tensor([[700.0, 0, 760, 60]]).repeat(2, 1)
        guesses = torch.cat([near, false])
        found.append(boxes(guesses[torch.rand(len(guesses), generator=generator) < 0.7]))
    rated = average_precision(found, there, difficult, ["thing"])
    assert rated.map_voc2007 == pytest.approx(voc2007_precision(found, there, difficult))
    assert 0 < rated.map < rated.map_50 < 1


def test_classes_without_objects_do_not_count() -> None:
    box = torch.tensor([[0.0, 0, 9, 9]])
    one = Boxes(box, torch.tensor([0]), torch.ones(1))
    two = Boxes(box.repeat(2, 1), torch.tensor([0, 1]), torch.ones(2))
    scores = average_precision([two], [one], [torch.zeros(1, dtype=torch.bool)], ["a", "b"])
    assert scores.ap_50 == pytest.approx({"a": 1})
