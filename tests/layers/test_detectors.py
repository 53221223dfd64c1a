"""Detectors of torchvision through the library, with random weights and small pictures."""

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

import decompose
from decompose.layers.batchnorm import reestimate_
from decompose.layers.costs import trace_shapes
from decompose.layers.detectors import comparable, is_detector, useful_scale
from decompose.layers.discovery import find_layers
from decompose.layers.forward import comparable_outputs


def detector(name: str, **others: Any) -> nn.Module:
    from torchvision.models import get_model

    options: dict[str, Any] = {"min_size": 64, "max_size": 96} if "rcnn" in name else {}
    options |= others
    model = get_model(name, weights=None, weights_backbone=None, num_classes=4, **options).eval()
    # Else random weights let nothing through.
    reestimate_(model, [IMAGES])
    return model


IMAGES = ([torch.rand(3, 64, 80), torch.rand(3, 72, 64)],)
CHOSEN = {
    "ssdlite320_mobilenet_v3_large": ("head.regression_head.module_list.0.1",),
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("rpn.head.conv.0.0", "roi_heads.box_head.fc7"),
}
"""Layers to decompose, by detector."""


@pytest.mark.parametrize("name", CHOSEN)
def test_what_heads_give_has_one_shape(name: str) -> None:
    model = detector(name)
    assert is_detector(model)
    with torch.no_grad():
        answers = [comparable_outputs(model, IMAGES) for _ in range(2)]
        other = comparable_outputs(detector(name), IMAGES)
    assert [a.shape for a in answers[0]] == [a.shape for a in other]
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))
    assert not any(module._forward_hooks for module in model.modules())


def test_images_are_shrunk_to_what_is_looked_at() -> None:
    squashing = GeneralizedRCNNTransform(300, 300, [0.0], [1.0], fixed_size=(300, 300))
    assert useful_scale(squashing, 500, 375) == 300 / 375
    assert useful_scale(squashing, 200, 900) == 1
    scaling = GeneralizedRCNNTransform(800, 1333, [0.0], [1.0])
    assert useful_scale(scaling, 2666, 900) == 0.5
    assert useful_scale(scaling, 500, 375) == 1


def test_masks_are_of_the_lattice() -> None:
    model = detector("maskrcnn_resnet50_fpn")
    with torch.no_grad(), comparable(model) as answers:
        model([IMAGES[0][0]])
    (logits, _), masks = answers[-2:]
    assert (len(logits), len(masks)) == (85, 21)
    assert "postprocess_detections" not in vars(model.roi_heads)


def test_macs_of_a_second_stage_are_those_of_all_boxes_that_it_may_see() -> None:
    options = {"rpn_post_nms_top_n_test": 90, "box_detections_per_img": 7}
    model = detector("maskrcnn_resnet50_fpn", **options)
    shapes = trace_shapes(model, IMAGES)
    assert shapes["roi_heads.box_head.fc6"] == [(90, 256 * 7 * 7)]
    assert shapes["roi_heads.mask_predictor.conv5_mask"] == [(7, 256, 14, 14)]
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.filterwarnings("ignore:left as truncated")
@pytest.mark.parametrize("name", CHOSEN)
def test_a_detector_is_planned_repaired_and_compared(name: str) -> None:
    model = detector(name)
    skip = [layer for layer in find_layers(model) if layer not in CHOSEN[name]]
    plan = decompose.plan(model, IMAGES, macs=0.9999, methods=["channel", "svd"], skip=skip)
    small = decompose.apply(plan, model, calibrate=[IMAGES])
    compared = decompose.compare(model, small, [IMAGES])
    assert compared.macs.ratio >= 1 / 0.9999
    assert compared.output_error is not None
    found = small(IMAGES[0])
    assert set(found[0]) >= {"boxes", "scores", "labels"}
