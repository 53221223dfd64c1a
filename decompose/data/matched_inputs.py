"""Fit synthetic inputs to a model's normalisations, so that its layers see what images let them see.

A BatchNorm keeps means m and variances v of what it read in training. Inputs are moved by gradient steps
until what it reads of them has the same:

    mean over normalisations and channels of ((mean - m)^2 + (deviation - sqrt(v))^2) / v

(ZeroQ, Cai et al. 2020, arXiv 2001.00281, equation 3; DeepInversion, Yin et al. 2020, arXiv 1912.08795). No
image is needed, and none comes out: a few steps from natural statistics are enough to plan and repair on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from decompose.data.synthetic import synthetic_inputs
from decompose.layers.batchnorm import running_norms
from decompose.layers.discovery import copied
from decompose.layers.forward import evaluating, largest_batch
from decompose.layers.hooks import observing
from decompose.utils.batches import Batches, Example, call
from decompose.utils.progress import track

STEPS = 12

_STEP_SIZE = 0.1
"""Of Adam, in deviations of the inputs."""


@overload
def matched_inputs(
    example: Tensor, model: nn.Module, *, num: int = 16, seed: int = 0, steps: int = STEPS
) -> Tensor: ...


@overload
def matched_inputs(
    example: Example, model: nn.Module, *, num: int = 16, seed: int = 0, steps: int = STEPS
) -> Batches: ...


def matched_inputs(
    example: Example, model: nn.Module, *, num: int = 16, seed: int = 0, steps: int = STEPS
) -> Batches:
    """Make synthetic inputs with the statistics that a model's normalisations keep.

    Args:
        example: as of ``synthetic_inputs``, on the model's device.
        model: left as it was. Without BatchNorms that keep statistics, the inputs stay synthetic.
        num: number of inputs.
        seed: the same seed makes the same inputs, up to rounding.
        steps: of gradient descent; 0 leaves the inputs as they are. A step costs about four passes of
            each input.

    Returns:
        As ``synthetic_inputs``. Several inputs of a model at once are not fitted.

    Raises:
        DecomposeError: the example holds no floating numbers.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from decompose.data.matched_inputs import matched_inputs
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
        >>> model[1].running_mean += 0.5
        >>> images = matched_inputs(torch.zeros(1, 3, 16, 16), model, num=4)
        >>> images.shape
        torch.Size([4, 3, 16, 16])
    """
    inputs = synthetic_inputs(example, model, num=num, seed=seed)
    norms = running_norms(model)
    if not isinstance(inputs, Tensor) or not norms or not steps:
        return inputs
    wide = model if inputs.dtype == torch.float32 else copied(model).float()
    return _fitted(inputs.float(), wide, steps).to(inputs)


def _fitted(inputs: Tensor, model: nn.Module, steps: int) -> Tensor:
    norms = {str(index): norm for index, norm in enumerate(running_norms(model))}
    size = largest_batch(model, inputs.split(1))
    x = inputs.clone()
    optimizer = torch.optim.Adam([x], lr=_STEP_SIZE * float(x.std()))
    with evaluating(model):
        for _ in track(range(steps), "matching statistics"):
            x.grad = _gradient(x.split(size), model, norms)
            optimizer.step()
    return x if x.isfinite().all() else inputs


def _gradient(parts: Sequence[Tensor], model: nn.Module, norms: Mapping[str, nn.Module]) -> Tensor:
    """The gradient of the distance of all inputs together, of one part after another."""
    alone = len(parts) == 1
    total = {} if alone else _added([_sums(part, model, norms) for part in parts])
    gradients = []
    for part in parts:
        with torch.enable_grad():
            x = part.detach().requires_grad_()
            own = _sums(x, model, norms)
            # The others' share is constant, and this part's own is replaced by one with a gradient.
            seen = own if alone else {n: total[n] - s.detach() + s for n, s in own.items()}
            distance = _distance(seen, norms)
            is_moved = distance.requires_grad
            gradients.append(
                torch.autograd.grad(distance, x)[0] if is_moved else torch.zeros_like(x)
            )
    return torch.cat(gradients)


def _sums(x: Tensor, model: nn.Module, norms: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Number, sum and sum of squares of what normalisations read, ``(3, channels)`` each."""
    found: dict[str, list[Tensor]] = {}

    def add(name: str, read: Tensor, _: Tensor) -> None:
        read = read.transpose(0, 1).flatten(1)
        moments = torch.ones_like(read), read, read.square()
        found.setdefault(name, []).append(torch.stack([moment.sum(1) for moment in moments]))

    with observing(norms, add):
        call(model, x)
    return {name: torch.stack(calls).sum(0) for name, calls in found.items()}


def _added(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}


def _distance(sums: Mapping[str, Tensor], norms: Mapping[str, nn.Module]) -> Tensor:
    """How far means and deviations are from those that normalisations keep, relative to these."""
    distances = []
    for name, (number, first, second) in sums.items():
        norm: Any = norms[name]
        mean, wanted = first / number, norm.running_var + norm.eps
        deviation = (second / number - mean.square()).clamp_min(norm.eps).sqrt()
        apart = (mean - norm.running_mean).square() + (deviation - wanted.sqrt()).square()
        distances.append((apart / wanted).mean())
    return torch.stack(distances).mean()
