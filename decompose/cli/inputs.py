"""Turn arguments of the command line into models, inputs and devices."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import ceil, prod
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from decompose.cli.outputs import print_unreadable
from decompose.data.folders import image_folder
from decompose.data.images import default_workers
from decompose.data.voc import DetectionDataset
from decompose.inference.engine_models import EngineModel
from decompose.layers.detectors import is_detector, useful_scale
from decompose.layers.discovery import find_decomposed, find_layers
from decompose.layers.execution_forms import get_form
from decompose.models import serialization
from decompose.models.architectures import preprocessing_of
from decompose.models.onnx.module import OnnxModule
from decompose.models.preprocessing import ImagePreprocessing, Transform, remember_preprocessing
from decompose.utils.batches import batch_size, moved
from decompose.utils.errors import DecomposeError, first_line, none_read
from decompose.utils.name_patterns import matches, require_match

_BATCH_SIZE = 8

_MOST_PIXELS = 2**24


class FolderInputs:
    """Images of a folder as inputs of a model; unreadable ones are collected by name.

    Args:
        folder: where the images lie, at any depth.
        model: whose preprocessing, dtype and device they get.
        most: take no more than this.
        workers: processes that decode.
        input_size: of the images, as an option gives it; the model's own by default.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        most: int,
        workers: int,
        input_size: str | None = None,
    ) -> None:
        transform = transform_of(model, input_size)
        self._whole = is_detector(model)
        if self._whole:
            transform = partial(_shrunk, transform, model.transform)
        self._images = image_folder(folder, transform, most)
        self._workers = workers
        self._parameter = next(model.parameters(), torch.empty(0))
        self.unreadable: dict[str, str] = {}

    def __iter__(self) -> Iterator[Tensor | tuple[list[Tensor]]]:
        """Batches; of a detector, lists of images that are each of their own size.

        Raises:
            DecomposeError: no image could be read.
        """
        dataset = DetectionDataset(self._images, {}) if self._whole else self._images
        any_read = False
        for batch in dataset.batches(_BATCH_SIZE, self._workers):
            self.unreadable |= batch.unreadable
            if len(batch.indices):
                any_read = True
                images = moved(batch.by_transform[0], self._parameter)
                yield (list(images),) if self._whole else images
        if not any_read:
            raise none_read(self.unreadable)


def _shrunk(transform: Transform, resizing: Any, image: Image.Image) -> Tensor:
    """Shrink an image to the pixels that a detector uses, since many are held in memory."""
    width, height = image.size
    scale = useful_scale(resizing, width, height)
    image.thumbnail((ceil(scale * width), ceil(scale * height)))
    return transform(image)


def calibration_images(folder: Path, model: nn.Module, most: int) -> list[Any]:
    """Load a folder's images as batches, decoded once, since every layer's repair reads them."""
    inputs = FolderInputs(folder, model, most, default_workers())
    batches = list(inputs)
    print_unreadable(inputs.unreadable)
    if sum(map(batch_size, batches)) < 2:
        raise DecomposeError(f"{folder}: calibration needs two images at least")
    return batches


def preprocessing_options(
    scale: float | None, mean: str | None, std: str | None, *, is_bgr: bool
) -> dict[str, Any]:
    """Gather the options for an ONNX model's images, as ``ImagePreprocessing.of`` takes it."""
    look = {
        "scale": scale,
        "means": parse_numbers(mean, "mean"),
        "deviations": parse_numbers(std, "std"),
        "is_bgr": is_bgr or None,
    }
    return {name: value for name, value in look.items() if value is not None}


def keep_preprocessing(
    model: nn.Module, example: Tensor, look: Mapping[str, Any], *, required: bool
) -> None:
    """Keep the preprocessing of an ONNX model, which its file does not hold.

    Args:
        model: of any kind; others know it by their names.
        example: one of its inputs.
        look: what ``preprocessing_options`` made of options.
        required: whether there are images.

    Raises:
        DecomposeError: it takes no images, or the options are given for another kind of model.
    """
    if isinstance(model, OnnxModule):
        if look or required:
            remember_preprocessing(model, ImagePreprocessing.of(example.shape[1:], **look))
    elif look:
        raise DecomposeError("--scale, --mean, --std and --bgr are for the images of an ONNX model")


def give_preprocessing(
    models: Sequence[tuple[str, nn.Module]], look: Mapping[str, Any], input_size: str | None
) -> None:
    """Give engines' models, whose files hold none, the preprocessing of their images.

    Args:
        models: that are measured together, with their names.
        look: what ``preprocessing_options`` made of options; where it is empty, they get that of the
            first model that has one.
        input_size: of the images, as an option gives it.

    Raises:
        DecomposeError: a model takes no such images, or the options are given and it has its own.
    """
    whole = [(name, model) for name, model in models if isinstance(model, EngineModel)]
    if look and not whole:
        raise DecomposeError("--scale, --mean, --std and --bgr are for the images of an ONNX model")
    others = (None if look else preprocessing_of(model) for _, model in models)
    shared = next((known for known in others if known is not None), None)
    for name, model in whole:
        try:
            if shared is None:
                shape = blank_input(model, input_size).shape[1:]
                remember_preprocessing(model, ImagePreprocessing.of(shape, **look))
            else:
                size = parse_size(input_size) if input_size else shared.input_shape()[1:]
                model.signature.shape(size)
                remember_preprocessing(model, shared)
        except DecomposeError as error:
            raise DecomposeError(f"{name}: {error}") from None


def transform_of(model: nn.Module, input_size: str | None) -> Transform:
    """The transform of a model's images, to a given size or its own."""
    preprocessing = serialization.required_preprocessing(model)
    if isinstance(preprocessing, ImagePreprocessing):
        # It was made for that size.
        return preprocessing
    return resized(preprocessing.transform(), input_size)


def blank_input(model: nn.Module, input_size: str | None) -> Tensor:
    """One input of zeros, of the model's own size or of a given one (N or HxW)."""
    if isinstance(model, OnnxModule | EngineModel):
        size = None if input_size is None else parse_size(input_size)
        return torch.zeros(1, *model.signature.shape(size), dtype=model.signature.dtype)
    if input_size is None:
        shape = serialization.required_preprocessing(model).input_shape()
    else:
        first = next(iter(find_layers(model).values()))
        shape = (getattr(first, "in_channels", 3), *parse_size(input_size))
    return torch.zeros(1, *shape).to(next(model.parameters()))


def parse_size(text: str) -> list[int]:
    """Read ``N`` or ``HxW``: height and width in pixels."""
    sizes = text.lower().split("x")
    if not all(size.isdecimal() and 0 < len(size) < 10 and int(size) for size in sizes):
        raise DecomposeError(f"input size {text!r}: write N or HxW, in pixels")
    found = [int(size) for size in sizes] * (2 if len(sizes) == 1 else 1)
    if prod(found) > _MOST_PIXELS:
        raise DecomposeError(f"input size {text!r}: is more than {_MOST_PIXELS:,} pixels")
    return found


def resized(transform: Transform, input_size: str | None) -> Transform:
    """Change the input size of a classifier's preprocessing, with the same ratio of crop to image."""
    if input_size is None:
        return transform
    crop, resize = (getattr(transform, name, None) for name in ("crop_size", "resize_size"))
    if not crop or not resize:
        raise DecomposeError("the model's preprocessing has no size that --input-size could set")
    size = parse_size(input_size)
    changed: Any = copy.copy(transform)
    changed.crop_size, changed.resize_size = size, [round(max(size) * resize[0] / crop[0])]
    return changed


def to_device(model: nn.Module, device: str) -> nn.Module:
    """Move a model to a device by name; an ONNX model stays on the CPU, where ONNX Runtime runs it."""
    if isinstance(model, OnnxModule):
        if device not in ("auto", "cpu"):
            raise DecomposeError(f"device {device!r}: an ONNX model runs on the CPU")
        return model
    return model.to(named_device(device))


def named_device(name: str) -> str:
    """Check that a device can be used; ``auto`` is a GPU where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()
    # What a device that is not there raises, each backend has its own idea of.
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        raise DecomposeError(f"device {name!r}: cannot be used: {first_line(error)}") from None
    return name


def parse_ranks(texts: Sequence[str]) -> int | dict[str, int]:
    """Read ``N`` and ``PATTERN=N``: one rank for all layers, or ranks by pattern."""
    ranks: dict[str, int] = {}
    for text in texts:
        pattern, _, number = text.rpartition("=")
        try:
            # The last one counts, so a repeated pattern moves to the end.
            ranks.pop(pattern or "*", None)
            ranks[pattern or "*"] = int(number)
        except ValueError:
            raise DecomposeError(f"rank {text!r}: write N or PATTERN=N, a whole number") from None
    return ranks["*"] if list(ranks) == ["*"] else ranks


def parse_numbers(text: str | None, what: str) -> list[float] | None:
    """Read numbers separated by commas."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise DecomposeError(f"{what} {text!r}: write N or N,N,N") from None


def parse_forms(texts: Sequence[str], model: nn.Module) -> dict[str, str]:
    """Read ``FORM`` and ``PATTERN=FORM``: the form of each decomposed layer; the last match counts."""
    rewritten = list(find_decomposed(model))
    if not rewritten:
        raise DecomposeError("the model has no decomposed layer whose form could be chosen")
    forms: dict[str, str] = {}
    for text in texts:
        pattern, _, form = text.rpartition("=")
        get_form(form)
        pattern = pattern or "*"
        require_match(rewritten, pattern)
        forms |= {name: form for name in rewritten if matches(name, pattern)}
    return forms


def parse_counts(text: str, what: str) -> list[int]:
    """Read numbers of 1 or more, separated by commas."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise DecomposeError(f"{what} {text!r}: write N or N,N, each 1 or more")
    return list(dict.fromkeys(map(int, parts)))
