"""Infer the scale of a model's images from the BatchNorm that follows its first convolution.

The running mean m and variance v of that BatchNorm say what the convolution W made of the training images.
Of the usual preprocessings, that one is taken under which W gives synthetic images such moments: the least
mean over channels of

    log(v' / v)^2 / 2 + (m' - m)^2 / (v' + v).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from decompose.layers.forward import evaluating
from decompose.utils.batches import Example, call, first

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Means and deviations of pixels in [0, 1]."""

Scale = tuple[Sequence[float], Sequence[float]]

_CAFFE = (123.68 / 255, 116.779 / 255, 103.939 / 255)

_USUAL: dict[int, tuple[Scale, ...]] = {
    1: (((0.0,), (1.0,)), ((0.5,), (0.5,)), ((0.1307,), (0.3081,)), ((0.0,), (1 / 255,))),
    3: (
        IMAGENET,
        ((0.0,) * 3, (1.0,) * 3),
        ((0.5,) * 3, (0.5,) * 3),
        ((0.0,) * 3, (1 / 255,) * 3),
        (_CAFFE, (1 / 255,) * 3),
    ),
}

_AS_GOOD = 1.5
"""Ratio of scores up to which they do not decide."""

_FARTHEST = 4.0
"""Score of a preprocessing beyond which the convolution was trained on something else: variances that
differ 17-fold."""


def read_scale(model: nn.Module, example: Example, images: Tensor) -> Scale | None:
    """Find the preprocessing that a model was trained with.

    Args:
        model: left as it was.
        example: one batch that it takes.
        images: ``(N, C, H, W)`` in [0, 1], of 1 or 3 channels.

    Returns:
        Means and deviations of pixels in [0, 1]; ``None`` where no BatchNorm follows the convolution that
        reads the input, it was never trained, or no usual preprocessing fits.
    """
    pair = _first_pair(model, example)
    if pair is None:
        return None
    layer, norm = pair
    weight = next(layer.parameters())
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    if (mean == 0).all() and (variance == 1).all():
        return None
    scores = {}
    with evaluating(layer):
        for scale in _USUAL.get(images.shape[1], ()):
            means, deviations = (torch.tensor(part).view(-1, 1, 1) for part in scale)
            output = layer(((images - means) / deviations).to(weight)).float()
            scores[scale] = _distance(output, mean.float(), variance.float())
    least = min(scores.values(), default=_FARTHEST)
    # Of those that the scores do not separate, the more usual one.
    best = next((scale for scale, score in scores.items() if score <= _AS_GOOD * least), None)
    return best if least <= _FARTHEST else None


def _distance(output: Tensor, mean: Tensor, variance: Tensor) -> float:
    seen_mean, seen_variance = output.mean((0, 2, 3)), output.var((0, 2, 3))
    alive = (variance > 1e-6 * variance.max()) & (seen_variance > 1e-6 * seen_variance.max())
    m, v, seen_m, seen_v = (t[alive] for t in (mean, variance, seen_mean, seen_variance))
    terms = (seen_v / v).log().square() / 2 + (seen_m - m).square() / (seen_v + v)
    return float(terms.mean()) if len(terms) else float("inf")


def _first_pair(model: nn.Module, example: Example) -> tuple[nn.Module, nn.Module] | None:
    """The convolution that reads the input, and the BatchNorm that reads its output."""
    given = first(example)
    written: dict[str, Any] = {}
    found: list[tuple[nn.Module, nn.Module]] = []

    def after(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs and inputs[0] is given:
            written.update(layer=layer, output=output)

    def before(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        if written and inputs[0] is written["output"]:
            found.append((written["layer"], norm))

    handles = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after))
        elif isinstance(module, _BatchNorm) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(before))
    try:
        with evaluating(model):
            call(model, given)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
