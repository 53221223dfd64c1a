"""Detectors of torchvision, asked so that their answers can be compared.

What a detector returns are the boxes that are left after suppression: another number for every network, in
another order. So networks are compared by what their heads give for every anchor. In a network of two
stages (Ren et al. 2015, Faster R-CNN) the second one would see as many boxes as the first
proposes; it is shown a lattice of boxes instead, the same for every network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_HEADS = (
    "head",
    "rpn.head",
    "roi_heads.box_predictor",
    "roi_heads.mask_predictor",
    "roi_heads.keypoint_predictor",
)

_LATTICE = (1, 2, 4, 8)
"""Boxes along each side of the picture, from large ones to small ones."""


def is_detector(model: nn.Module) -> bool:
    """Whether a network is one of torchvision's detectors, or derived from one."""
    return any(
        kind.__module__.startswith("torchvision.models.detection") for kind in type(model).__mro__
    )


@contextmanager
def steadied(model: nn.Module) -> Iterator[list[Any]]:
    """Let a detector be called so that its heads' outputs can be compared.

    Yields:
        A list that the heads' outputs are added to, in the order of the calls; it stays empty where
        the network is no detector.
    """
    answers: list[Any] = []
    modules = dict(model.named_modules()) if is_detector(model) else {}
    with ExitStack() as stack:
        for name in _HEADS:
            if (head := modules.get(name)) is not None:
                handle = head.register_forward_hook(lambda _, __, output: answers.append(output))
                stack.callback(handle.remove)
        if (rpn := modules.get("rpn")) is not None:
            stack.callback(rpn.register_forward_hook(_propose_lattice).remove)
        if (second := modules.get("roi_heads")) is not None:
            # What is found is looked at again for masks and keypoints.
            second.__dict__["postprocess_detections"] = _keep_proposals
            stack.callback(second.__dict__.pop, "postprocess_detections")
        yield answers


def _propose_lattice(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    images = inputs[0]
    return [_lattice(size, images.tensors) for size in images.image_sizes], {}


def _lattice(size: tuple[int, int], like: Tensor) -> Tensor:
    """Boxes over a picture of ``(height, width)`` pixels, ``(n, 4)``: left, top, right, bottom."""
    height, width = size
    boxes = [
        (width * x / n, height * y / n, width * (x + 1) / n, height * (y + 1) / n)
        for n in _LATTICE
        for y in range(n)
        for x in range(n)
    ]
    return torch.tensor(boxes).to(like)


def _keep_proposals(
    class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: Any
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The proposals as what was found, each of class 1."""
    scores = [boxes.new_ones(len(boxes)) for boxes in proposals]
    labels = [torch.ones(len(boxes), dtype=torch.int64, device=boxes.device) for boxes in proposals]
    return proposals, scores, labels
