"""Run torchvision's detectors so that their outputs can be compared.

A detector returns the boxes that are left after suppression: another number for every model, in another
order. So models are compared by the outputs of their heads for every anchor. In a model of two
stages (Ren et al. 2015, Faster R-CNN) the second one would see as many boxes as the first
proposes; it is shown a lattice of boxes instead, the same for every model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
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
"""Boxes along each side of the image, from large ones to small ones."""

_NUM_FOUND = 21
"""The largest boxes, in which masks and keypoints are looked for: that is dear, and all are alike."""


def is_detector(model: nn.Module) -> bool:
    """Whether a model is one of torchvision's detectors, or derived from one."""
    return any(
        kind.__module__.startswith("torchvision.models.detection") for kind in type(model).__mro__
    )


def useful_scale(resizing: Any, width: int, height: int) -> float:
    """Scale to which an image can be shrunk before it is smaller than a detector's own input; at most 1.

    Args:
        resizing: the detector's ``transform``.
        width: of the image, in pixels.
        height: of it.
    """
    if resizing.fixed_size is None:
        return min(1.0, resizing.max_size / max(width, height))
    across, down = resizing.fixed_size
    return min(1.0, max(across / width, down / height))


@contextmanager
def comparable(model: nn.Module) -> Iterator[list[Any]]:
    """Collect the outputs of a detector's heads while it is called, with fixed proposals.

    Yields:
        A list that the heads' outputs are added to, in the order of the calls; it stays empty where
        the model is no detector.
    """
    answers: list[Any] = []
    modules = dict(model.named_modules()) if is_detector(model) else {}
    with ExitStack() as stack:
        for name in _HEADS:
            if (head := modules.get(name)) is not None:
                handle = head.register_forward_hook(lambda _, __, output: answers.append(output))
                stack.callback(handle.remove)
        stack.enter_context(_second_stage(modules, fully=False))
        yield answers


@contextmanager
def with_all_proposals(model: nn.Module) -> Iterator[None]:
    """Give the second stage of a detector the most boxes that it may have, so that MACs can be counted.

    It is given as many boxes as the first stage may propose, and finds in them as much as it may: so
    counts depend neither on the weights nor on the image. Other models are left alone.
    """
    modules = dict(model.named_modules()) if is_detector(model) else {}
    with _second_stage(modules, fully=True):
        yield


@contextmanager
def _second_stage(modules: Mapping[str, Any], *, fully: bool) -> Iterator[None]:
    """Give the second stage, if there is one, a lattice of boxes, and let it detect an object in each.

    Args:
        modules: of the model, by name.
        fully: let there be as many as the model ever has.
    """
    with ExitStack() as stack:
        if (rpn := modules.get("rpn")) is not None:
            propose = partial(_propose_lattice, num=rpn.post_nms_top_n() if fully else None)
            stack.callback(rpn.register_forward_hook(propose).remove)
        if (second := modules.get("roi_heads")) is not None:
            # Each detection is looked at again for masks and keypoints.
            most = second.detections_per_img if fully else _NUM_FOUND
            keep = partial(_keep_proposals, most=most)
            before = second.__dict__.get("postprocess_detections")
            second.__dict__["postprocess_detections"] = keep
            stack.callback(_restore, second, "postprocess_detections", before)
        yield


def _restore(module: nn.Module, name: str, before: Any) -> None:
    """Restore an attribute to its value in an outer context, or to the class's own."""
    if before is None:
        module.__dict__.pop(name)
    else:
        module.__dict__[name] = before


def _propose_lattice(_: nn.Module, inputs: tuple[Any, ...], output: Any, num: int | None) -> Any:
    images = inputs[0]
    lattices = [_lattice(size, images.tensors) for size in images.image_sizes]
    if num is not None:
        lattices = [boxes.repeat(-(-num // len(boxes)), 1)[:num] for boxes in lattices]
    return lattices, {}


def _lattice(size: tuple[int, int], like: Tensor) -> Tensor:
    """Boxes over an image of ``(height, width)`` pixels, ``(n, 4)``: left, top, right, bottom."""
    height, width = size
    boxes = [
        (width * x / n, height * y / n, width * (x + 1) / n, height * (y + 1) / n)
        for n in _LATTICE
        for y in range(n)
        for x in range(n)
    ]
    return torch.tensor(boxes).to(like)


def _keep_proposals(
    class_logits: Tensor,
    box_regression: Tensor,
    proposals: list[Tensor],
    image_shapes: Any,
    most: int,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the first of the proposals as detections of class 1."""
    proposals = [boxes[:most] for boxes in proposals]
    scores = [boxes.new_ones(len(boxes)) for boxes in proposals]
    labels = [torch.ones(len(boxes), dtype=torch.int64, device=boxes.device) for boxes in proposals]
    return proposals, scores, labels
