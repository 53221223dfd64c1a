"""Decode image files of any mode to RGB with 8 bits a channel, within bounds of memory."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from decompose.utils.errors import DecomposeError, reason

_MOST_PIXELS = 2**26
"""Most pixels of an image: in RGB this many take 256 MB."""

_LONGEST_BY_SHORTEST = 200
"""Largest ratio of the sides: a preprocessing scales the shorter one up to its input size."""

_DEEPEST = 65535
"""White in 16 bits."""


def read_image(path: str | Path, opened: IO[bytes] | None = None) -> Image.Image:
    """Decode an image as RGB.

    Grey images of 16 bits, and floating ones in [0, 1], are scaled to 8 bits. The orientation that EXIF
    names is not applied: boxes and the loaders that models are trained with count pixels as stored.

    Args:
        path: of the file.
        opened: its content, where it lies elsewhere.

    Returns:
        An image of mode ``RGB``.

    Raises:
        DecomposeError: it cannot be decoded, has too many pixels, or values of unknown range.

    >>> import io
    >>> content = io.BytesIO()
    >>> Image.fromarray(np.array([[0, 65535]], np.uint16)).save(content, "PNG")
    >>> read_image("ramp.png", content).getpixel((1, 0))
    (255, 255, 255)
    """
    try:
        with warnings.catch_warnings():
            # Of metadata, which nothing reads here.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(opened or path) as image:
                _require_moderate(image.size)
                return _in_8_bits(image).convert("RGB")
    except Image.UnidentifiedImageError:
        raise DecomposeError(f"{path}: is no image") from None
    # Decoders raise whatever a damaged file leads them to.
    except Exception as error:  # noqa: BLE001
        raise DecomposeError(f"{path}: cannot be read as an image: {reason(error)}") from None


def _require_moderate(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > _MOST_PIXELS:
        raise ValueError(f"{width}×{height} pixels are more than {_MOST_PIXELS:,}")
    if max(size) > _LONGEST_BY_SHORTEST * min(size):
        raise ValueError(
            f"of {width}×{height} pixels, one side is over {_LONGEST_BY_SHORTEST} times the other"
        )


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Scale images of 16 or 32 bits to [0, 255], which Pillow would clip; others stay."""
    if image.mode == "F":
        values = np.asarray(image)
        # As a whole, so that NaN fails as well.
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError("its floating values are not in [0, 1]; save it in 8 or 16 bits")
        return Image.fromarray(np.round(255 * values).astype(np.uint8))
    # Pillow reads these formats' 16 bits as 32.
    is_16_bit = image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in ("PNG", "PPM")
    )
    if is_16_bit:
        values = np.asarray(image).astype(np.float64).clip(0, _DEEPEST)
        return Image.fromarray(np.round(values * (255 / _DEEPEST)).astype(np.uint8))
    if image.mode == "I":
        raise ValueError("its values of 32 bits have no known range; save it in 8 or 16 bits")
    return image
