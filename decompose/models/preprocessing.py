"""Preprocess images for models whose weights do not define it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from decompose.utils.errors import DecomposeError

Transform = Callable[[Any], Tensor]
"""Maps a PIL image to a ``(3, H, W)`` tensor."""


PREPROCESSING_ATTRIBUTE = "decompose_preprocessing"


_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImagePreprocessing:
    """Resize to cover the input size, crop the middle, and compute ``(scale pixel - mean) / std``.

    Attributes:
        shape: of an input, ``(C, H, W)``; one channel is grey.
        scale: the value of the brightest pixel.
        means: of each channel, in the units of ``scale``.
        deviations: of each channel, in the same units.
        is_bgr: whether blue comes first.
    """

    shape: tuple[int, int, int]
    scale: float
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    is_bgr: bool = False

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        *,
        scale: float | None = None,
        means: Sequence[float] | None = None,
        deviations: Sequence[float] | None = None,
        is_bgr: bool = False,
    ) -> ImagePreprocessing:
        """Build a preprocessing from the known settings.

        Where nothing is, colours have ImageNet's means and deviations, as torchvision's models want
        them; else 0 and 1 for those that are not given.

        Raises:
            DecomposeError: the input is no image, or a number is missing or 0.
        """
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise DecomposeError(
                f"inputs of shape {'x'.join(map(str, shape))} are no images of 1 or 3 channels"
            )
        if scale is means is deviations is None and shape[0] == 3:
            means, deviations = _IMAGENET_MEAN, _IMAGENET_STD
        means, deviations = (
            _for_each_channel(values, shape[0])
            for values in (means or (0.0,), deviations or (1.0,))
        )
        if not all(deviations) or scale == 0:
            raise DecomposeError("an image's scale and deviations must not be 0")
        channels, height, width = shape
        return cls((channels, height, width), scale or 1.0, means, deviations, is_bgr)

    @property
    def mean(self) -> tuple[float, ...]:
        """Means of pixels in [0, 1], in the order of the channels."""
        return tuple(value / self.scale for value in self.means)

    @property
    def std(self) -> tuple[float, ...]:
        """Deviations of pixels in [0, 1]."""
        return tuple(value / self.scale for value in self.deviations)

    def transform(self) -> ImagePreprocessing:
        """Itself: the preprocessing maps an image to an input."""
        return self

    def input_shape(self) -> tuple[int, ...]:
        """Shape of an input, ``(C, H, W)``."""
        return self.shape

    def __call__(self, image: Image.Image) -> Tensor:
        """Preprocess an image to an input ``(C, H, W)``, float32."""
        channels, height, width = self.shape
        mode = "L" if channels == 1 else "RGB"
        fitted = ImageOps.fit(
            image if image.mode == mode else image.convert(mode),
            (width, height),
            Image.Resampling.BILINEAR,
        )
        pixels = torch.from_numpy(np.array(fitted, np.float32)).view(height, width, channels)
        pixels = pixels.flip(-1) if self.is_bgr else pixels
        means, deviations = torch.tensor(self.means), torch.tensor(self.deviations)
        return ((pixels * (self.scale / 255) - means) / deviations).permute(2, 0, 1)


class Renormalized(nn.Module):
    """A model that takes images normalised for another model.

    Args:
        model: what the images are given to; ``(batch, C, H, W)`` to anything.
        mean: of pixels in [0, 1], as the images given have them taken out; one for each channel.
        std: what they are divided by.
        wanted: the preprocessing of the model; its size is not looked at.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        wanted: ImagePreprocessing,
    ) -> None:
        super().__init__()
        self.model, self.wanted = model, wanted
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Any:
        """Run the model on ``(batch, C, H, W)`` in the other normalisation."""
        pixels = x * self.std + self.mean
        pixels = pixels.flip(1) if self.wanted.is_bgr else pixels
        mean, std = (
            torch.tensor(values).to(x).view(-1, 1, 1)
            for values in (self.wanted.mean, self.wanted.std)
        )
        return self.model((pixels - mean) / std)


def _for_each_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise DecomposeError(f"{len(values)} numbers for images of {channels} channels")
    return tuple(values) * (channels // len(values))


class Preprocessing(Protocol):
    """A model's input shape, and the transform that makes an input from an image."""

    def transform(self) -> Transform:
        """Maps an image to an input."""
        ...

    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, ``(C, H, W)``."""
        ...


def remember_preprocessing(model: nn.Module, preprocessing: Preprocessing) -> None:
    """Attach a preprocessing to a model whose architecture does not define one."""
    setattr(model, PREPROCESSING_ATTRIBUTE, preprocessing)
