"""Detectors of torchvision through the library, with random weights and small pictures."""

from typing import Any

import pytest
import torch
from torch import nn

import decompose
from decompose.detectors import is_detector, steadied
from decompose.layers import respond, trace_shapes


def detector(name: str) -> nn.Module:
    from torchvision.models import get_model

    options: dict[str, Any] = {"min_size": 64, "max_size": 96} if "rcnn" in name else {}
    return get_model(name, weights=None, weights_backbone=None, num_classes=4, **options).eval()


PICTURES = ([torch.rand(3, 64, 80), torch.rand(3, 72, 64)],)
SLOW = {
    "ssdlite320_mobilenet_v3_large": ("backbone.features",),
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("backbone.body", "roi_heads.box_head.fc6"),
}
"""Layers that would take long, by detector."""


@pytest.mark.parametrize("name", SLOW)
def test_what_heads_give_has_one_shape(name: str) -> None:
    network = detector(name)
    assert is_detector(network)
    with torch.no_grad():
        answers = [respond(network, PICTURES) for _ in range(2)]
        other = respond(detector(name), PICTURES)
    assert [a.shape for a in answers[0]] == [a.shape for a in other]
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))
    assert not any(module._forward_hooks for module in network.modules())


def test_masks_are_of_the_lattice() -> None:
    network = detector("maskrcnn_resnet50_fpn")
    with torch.no_grad(), steadied(network) as answers:
        network([PICTURES[0][0]])
    assert len(answers[-1]) == 85
    assert "postprocess_detections" not in vars(network.roi_heads)


def test_macs_of_a_second_stage_are_those_of_all_boxes_that_it_may_see() -> None:
    network = detector("maskrcnn_resnet50_fpn")
    shapes = [trace_shapes(network, [picture]) for picture in PICTURES[0]]
    # 1,000 boxes of 256 maps of 7x7, and the 100 best of 14x14.
    assert shapes[0]["roi_heads.box_head.fc6"] == [(1000, 256 * 7 * 7)]
    assert shapes[1]["roi_heads.mask_predictor.conv5_mask"] == [(100, 256, 14, 14)]
    assert not network.rpn._forward_hooks


@pytest.mark.parametrize("name", SLOW)
def test_a_detector_is_planned_repaired_and_compared(name: str) -> None:
    network = detector(name)
    plan = decompose.plan(network, PICTURES, macs=0.95, methods=["channel", "svd"], skip=SLOW[name])
    small = decompose.apply(plan, network, calibrate=[PICTURES])
    compared = decompose.compare(network, small, [PICTURES])
    assert compared.macs.ratio >= 1 / 0.95
    assert compared.output_error is not None
    found = small(PICTURES[0])
    assert set(found[0]) >= {"boxes", "scores", "labels"}
