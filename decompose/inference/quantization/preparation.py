"""Prepare models for quantisation without changing their float outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from decompose.algebra import equalized, middle_ranges
from decompose.layers.batchnorm import fold_batchnorm
from decompose.layers.discovery import copied, find_decomposed
from decompose.layers.forward import evaluating
from decompose.layers.hooks import observing
from decompose.models.onnx.module import OnnxModule
from decompose.utils.errors import DecomposeError


def prepared(model: nn.Module, images: Sequence[Tensor]) -> dict[str, nn.Module]:
    """Prepare a model in each way that may quantise best.

    Args:
        model: left as it was.
        images: batches ``(batch, ...)`` that the model takes.

    Returns:
        Models that compute the same: ``factors`` with equalised factors, where there are any, and one
        under an empty name without.
    """
    plain = folded(copied(model).cpu().eval(), images[0])
    if not find_decomposed(plain):
        return {"": plain}
    even = copied(plain)
    equalize_(even, images)
    return {"factors": even, "": plain}


def folded(model: nn.Module, example: Tensor) -> nn.Module:
    """Fold BatchNorm where it can be folded; returns the model itself where it cannot."""
    if not isinstance(model, OnnxModule):
        # It says so where there is nothing to fold.
        with suppress(DecomposeError):
            return fold_batchnorm(model, example)
    return model


def equalize_(model: nn.Module, images: Iterable[Tensor]) -> None:
    """Equalise the factors of decomposed layers by the activations between them, in place.

    Args:
        model: whose decomposed layers get other weights that compute the same.
        images: batches ``(batch, ...)``.
    """
    layers = find_decomposed(model)
    ranges: dict[str, list[Tensor]] = {}

    def observe(name: str, x: Tensor, _: Tensor) -> None:
        """Widen the ranges of a layer by another input."""
        found = middle_ranges(layers[name].expression, x)
        known = ranges.get(name, found)
        ranges[name] = [torch.maximum(a, b) for a, b in zip(known, found, strict=True)]

    with evaluating(model), observing(layers, observe):
        for batch in images:
            model(batch)
    for name, found in ranges.items():
        layers[name].assign(equalized(layers[name].expression, found))
