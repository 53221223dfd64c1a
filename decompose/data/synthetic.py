"""Synthetic inputs with the statistics of natural images.

Dead leaves (Lee, Mumford, Huang 2001, "Occlusion Models for Natural Images"): balls of random position
and colour that cover one another, their radii r distributed as r^-3 in two dimensions, so that no
scale is special; over them a texture whose amplitude falls with frequency as 1/f. Baradad et al.
2021 (arXiv 2106.05963) show that such images train features nearly as photographs do. In one
dimension they are steps, in three blobs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import reduce
from math import isfinite, prod, sqrt
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from decompose.data.input_scale import IMAGENET, Scale, read_scale
from decompose.layers.detectors import is_detector
from decompose.models.architectures import preprocessing_of
from decompose.utils.batches import Batches, Example, map_tensors, tensors
from decompose.utils.errors import DecomposeError

_FEWEST_INPUTS, _MOST_INPUTS, _MOST_NUMBERS = 8, 64, 1_000_000
"""Inputs to repair on without images, and the numbers that they hold together, more or less."""

_LEAST_RADIUS = 2.0
_MOST_BALLS = 900
_TEXTURE = 0.08
_HUE = 0.15
"""Deviation of a ball's channels from its brightness."""


@overload
def synthetic_inputs(
    example: Tensor,
    model: nn.Module | None = None,
    *,
    num: int = 16,
    seed: int = 0,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Tensor: ...


@overload
def synthetic_inputs(
    example: Example,
    model: nn.Module | None = None,
    *,
    num: int = 16,
    seed: int = 0,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Batches: ...


def synthetic_inputs(
    example: Example,
    model: nn.Module | None = None,
    *,
    num: int = 16,
    seed: int = 0,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Batches:
    """Make inputs for statistics and repair where there are no images.

    Their scale is the given one; else, channel by channel, that of the example unless it is constant;
    that of pixels in [0, 1] for a detector, which normalises them itself; else that of the
    preprocessing that the model's name implies; else that of the running statistics behind its first
    convolution (``data.input_scale``). Where none of these is known, colour images get ImageNet's mean
    and deviation, with a warning, and other inputs 0 and 1.

    Args:
        example: one input with a batch axis, floating, ``(1, C, *size)`` or, without spatial axes,
            ``(1, C)``; or several inputs (a tuple, or a dictionary by name), of which the floating ones
            with a spatial axis are replaced.
        model: the model that the inputs are for.
        num: number of inputs.
        seed: the same seed makes the same inputs.
        mean: means that the model's preprocessing subtracts from pixels in [0, 1], by channel, or one
            number for all; 0 by default.
        std: deviations that it divides by, likewise; 1 by default. ``1 / 255`` makes pixels in [0, 255].

    Returns:
        ``(num, *example.shape[1:])``, of the example's dtype and device; of several inputs, as many
        tuples of one batch each.

    Raises:
        DecomposeError: the example holds no floating numbers, or ``mean`` and ``std`` do not fit it.

    Examples:
        >>> import torch
        >>> import decompose
        >>> example = torch.zeros(1, 3, 8, 8)
        >>> images = decompose.synthetic_inputs(example, num=2, mean=(0, 0, 0), std=(1, 1, 1))
        >>> images.shape, float(images.max()) <= 1
        (torch.Size([2, 3, 8, 8]), True)
    """
    if not isinstance(example, Tensor):
        return [(_synthetic_batch(example, model, seed + number),) for number in range(num)]
    if not example.is_floating_point():
        raise DecomposeError("inputs can be made for models of floating numbers only")
    generator = torch.Generator().manual_seed(seed)
    shape = tuple(example.shape[1:])
    if len(shape) < 2:
        return torch.randn(num, *shape, generator=generator).to(example)
    images = torch.stack([_dead_leaves(shape, generator) for _ in range(num)])
    if mean is not None or std is not None:
        return _scaled(images, _given_scale(mean, std, shape[0])).to(example)
    return _normalized(images, example, model).to(example)


def num_to_repair_on(example: Example) -> int:
    """How many synthetic inputs a model is repaired on where there are no images: more of small ones.

    Args:
        example: one input with a batch axis.

    Example:
        >>> [num_to_repair_on(torch.zeros(1, 3, size, size)) for size in (32, 96, 224)]
        [64, 36, 8]
    """
    numbers = sum(x[:1].numel() for x in tensors(example) if x.is_floating_point())
    return min(_MOST_INPUTS, max(_FEWEST_INPUTS, _MOST_NUMBERS // max(1, numbers)))


def are_cheap(example: Example) -> bool:
    """Whether inputs are so small that a plan can afford to foresee their repair.

    Args:
        example: one input with a batch axis.
    """
    return num_to_repair_on(example) == _MOST_INPUTS


def _synthetic_batch(example: Example, model: nn.Module | None, seed: int) -> Any:
    """One synthetic batch: floating tensors with a spatial axis are replaced, others stay."""
    generator = torch.Generator().manual_seed(seed)
    detects = model is not None and is_detector(model)

    def made(x: Tensor) -> Tensor:
        """A synthetic tensor of the shape and dtype of one of the example's."""
        if not x.is_floating_point() or x.ndim < 3:
            return x
        if detects:
            # Its images have no batch axis, and it normalises them itself.
            return _dead_leaves(tuple(x.shape), generator).to(x)
        return synthetic_inputs(x, model, num=len(x), seed=seed)

    return map_tensors(made, example)


def _dead_leaves(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """One image in [0, 1], ``(C, *size)``."""
    channels, *size = shape
    axes = len(size)
    # The balls are small: numpy takes a fraction of torch's time for them.
    grid = [np.arange(pixels, dtype=np.float32) for pixels in size]
    image = np.full((channels, *size), 0.5, dtype=np.float32)
    empty = np.ones(size, dtype=bool)
    num_empty = empty.size
    most = max(size) / 1.5
    for _ in range(_MOST_BALLS):
        share, *places, brightness = torch.rand(axes + 2, generator=generator).tolist()
        hues = torch.randn(channels, generator=generator)
        # The inverse of the distribution function of r^-(axes + 1).
        power = -float(axes)
        radius = (
            _LEAST_RADIUS**power - (_LEAST_RADIUS**power - max(most, 3.0) ** power) * share
        ) ** (1 / power)
        centre = [
            p * (pixels + 2 * radius) - radius for p, pixels in zip(places, size, strict=True)
        ]
        box = tuple(
            slice(max(0, int(c - radius)), max(0, min(pixels, int(c + radius) + 1)))
            for c, pixels in zip(centre, size, strict=True)
        )
        if not empty[box].any():
            continue
        colour = (np.float32(brightness) + _HUE * hues.numpy()).clip(0, 1)
        along = [
            np.square(pixels[window] - c)
            for pixels, window, c in zip(grid, box, centre, strict=True)
        ]
        new = (reduce(np.add.outer, along) <= radius**2) & empty[box]
        np.copyto(image[(slice(None), *box)], colour.reshape(-1, *[1] * axes), where=new)
        empty[box] &= ~new
        num_empty -= np.count_nonzero(new)
        if not num_empty:
            break
    textured = torch.from_numpy(image) + _TEXTURE * _pink_noise(size, generator)
    return textured.clamp(0, 1)


def _pink_noise(size: Sequence[int], generator: torch.Generator) -> Tensor:
    """Noise of mean 0 and deviation 1, its amplitude falling as 1/f, ``size``."""
    *others, last = size
    frequency = torch.zeros([1] * len(size))
    for axis, along in enumerate([*map(torch.fft.fftfreq, others), torch.fft.rfftfreq(last)]):
        frequency = frequency + along.square().view(
            [-1 if a == axis else 1 for a in range(len(size))]
        )
    frequency[(0,) * len(size)] = 1.0
    spectrum = torch.fft.rfftn(torch.randn(*size, generator=generator)) / frequency.sqrt()
    spectrum[(0,) * len(size)] = 0
    noise = torch.fft.irfftn(spectrum, s=tuple(size))
    return noise / noise.square().mean().sqrt().clamp_min(1e-12)


def _normalized(images: Tensor, example: Tensor, model: nn.Module | None) -> Tensor:
    axes = tuple(range(2, images.ndim))
    seen = example.detach().float()
    view = (-1, *[1] * len(axes))
    if prod(seen.shape[2:]) > 1 and float(seen.std()) > 0:
        mean, deviation = seen.mean((0, *axes)).cpu(), seen.std((0, *axes)).cpu()
        centred = images - images.mean((0, *axes)).view(view)
        return centred / images.std((0, *axes)).view(view) * deviation.view(view) + mean.view(view)
    if model is not None and is_detector(model):
        return images  # it normalises them itself
    return _scaled(images, _known_scale(images, example, model))


def _known_scale(images: Tensor, example: Tensor, model: nn.Module | None) -> Scale:
    """Means and deviations that a model's preprocessing subtracts and divides by, for pixels in [0, 1]."""
    channels = images.shape[1]
    preprocessing = None if model is None else preprocessing_of(model)
    transform = None if preprocessing is None else preprocessing.transform()
    mean, std = getattr(transform, "mean", None), getattr(transform, "std", None)
    if mean is not None and std is not None and len(mean) == channels:
        return mean, std
    if model is not None and preprocessing is None and images.ndim == 4:
        if (read := read_scale(model, example, images)) is not None:
            return read
        if channels == len(IMAGENET[0]):
            warnings.warn(
                "nothing says how the model scales its images: ImageNet's mean and deviation are "
                "supposed; give one of its images as the example, or some to calibrate on",
                stacklevel=2,
            )
    # Of other pixels the brightness is taken to be uniform in [0, 1].
    return IMAGENET if channels == len(IMAGENET[0]) else ((0.5,), (sqrt(1 / 12),))


def _given_scale(
    mean: float | Sequence[float] | None, std: float | Sequence[float] | None, channels: int
) -> Scale:
    means, deviations = (
        _numbers(0.0 if mean is None else mean),
        _numbers(1.0 if std is None else std),
    )
    numbers = [*means, *deviations]
    is_fit = all(len(part) in (1, channels) for part in (means, deviations))
    if not is_fit or not all(map(isfinite, numbers)) or not all(deviations):
        raise DecomposeError(
            f"mean and std are one number or {channels} each, finite, those of std not 0"
        )
    return means, deviations


def _numbers(given: float | Sequence[float]) -> Sequence[float]:
    return [float(given)] if isinstance(given, (int, float)) else [float(value) for value in given]


def _scaled(images: Tensor, scale: Scale) -> Tensor:
    view = (-1, *[1] * (images.ndim - 2))
    mean, deviation = (torch.tensor(values, dtype=torch.float32).view(view) for values in scale)
    return (images - mean) / deviation
