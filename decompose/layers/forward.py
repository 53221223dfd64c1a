"""Run models in evaluation mode, and collect the outputs by which they are compared."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from decompose.layers.detectors import comparable
from decompose.utils.batches import Example, call, in_channels_last, tensors
from decompose.utils.errors import DecomposeError

_MOST_TOGETHER = 16
_NUMBERS_TOGETHER = 2**17
"""Inputs and numbers of one batch, at most."""

_ROUNDINGS = 8
"""That may add up where the same is computed in another order."""

_REFUSALS = (
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    AssertionError,
    DecomposeError,
)
"""What a model raises that does not take an input."""


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Switch models to evaluation mode without gradients; restore each module's mode afterwards."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    """Compute the outputs of a model one image at a time, since large temporaries cost more than calls."""
    with evaluating(model):
        return torch.cat([model(image) for image in images.split(1)])


def floating_tensors(output: object) -> list[Tensor]:
    """Collect the floating tensors in a model's output: a tensor, or a nest of tensors.

    Raises:
        DecomposeError: the output holds something else.
    """
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        return [tensor for part in output.values() for tensor in floating_tensors(part)]
    if isinstance(output, tuple | list):
        return [tensor for part in output for tensor in floating_tensors(part)]
    raise DecomposeError(f"the model returns a {type(output).__name__}, not tensors")


def comparable_outputs(model: nn.Module, example: Example) -> list[Tensor]:
    """Run a model, and collect the floating tensors of its output, by which models are compared.

    Of a detector they are the outputs of its heads (``detectors``).

    Raises:
        DecomposeError: it returns something else.
    """
    with comparable(model) as answers:
        output = call(model, example)
    return floating_tensors(answers or output)


def warn_of_infinite(count: int, total: int) -> None:
    """Warn that some of the original's outputs are not finite, and so cannot be compared.

    Args:
        count: of the outputs that are NaN or infinite.
        total: of all.

    Raises:
        DecomposeError: all of them are, so that nothing is left to compare.
    """
    if 0 < total == count:
        raise DecomposeError(
            "the original's outputs are NaN or infinite on all inputs: check the inputs' scale, and "
            "in half precision compress the float32 model"
        )
    if count:
        warnings.warn(
            f"{count:,} of {total:,} outputs of the original are NaN or infinite and are left out of "
            "what is compared",
            stacklevel=3,
        )


def largest_batch(model: nn.Module, some: Sequence[Any]) -> int:
    """Choose the number of inputs that pass together: enough to fill small layers, if the model allows it.

    Args:
        model: left as it was.
        some: two inputs or more, ``(1, ...)`` each; of fewer, each passes alone.
    """
    if len(some) < 2 or not isinstance(some[0], Tensor):
        return 1
    most = min(_MOST_TOGETHER, _NUMBERS_TOGETHER // max(1, some[0].numel()))
    if most <= 1:
        return 1
    with evaluating(model):
        return most if takes_batches(model, some[0], some[1]) else 1


def takes_batches(model: nn.Module, x: Example, other: Example) -> bool:
    """Whether a model's outputs for two inputs together are those for each alone.

    Args:
        model: in evaluation mode, gradients off.
        x: one batch.
        other: another, of the same shape.
    """
    if not (isinstance(x, Tensor) and isinstance(other, Tensor) and x.shape == other.shape):
        return False
    alone = [comparable_outputs(model, one) for one in (x, other)]
    try:
        together = comparable_outputs(model, torch.cat((x, other)))
    except _REFUSALS:
        return False
    if len(together) != len(alone[0]) or any(not t.ndim or len(t) != 2 * len(x) for t in together):
        return False
    pairs = zip(together, *alone, strict=True)
    return all(_nearly_equal(both, torch.cat((a, b))) for both, a, b in pairs)


def takes_channels_last(model: nn.Module, x: Example) -> bool:
    """Whether a model gives the same outputs for images laid out with the channels last.

    One that views a convolution's output as rows does not take them.

    Args:
        model: in evaluation mode, gradients off.
        x: one batch; without images there is nothing to lay out, and the answer is no.

    Example:
        >>> seen = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()).eval()
        >>> with torch.no_grad():
        ...     takes_channels_last(seen, torch.ones(1, 3, 2, 2))
        True
    """
    if not any(tensor.ndim == 4 for tensor in tensors(x)):
        return False
    try:
        expected, given = (comparable_outputs(model, seen) for seen in (x, in_channels_last(x)))
    except _REFUSALS:
        return False
    return len(given) == len(expected) and all(map(_nearly_equal, given, expected))


def _nearly_equal(given: Tensor, expected: Tensor) -> bool:
    """Whether two tensors agree to rounding, and are NaN or infinite in the same positions.

    In half precision a few roundings add up to more than in float32 the whole may differ by.
    """
    if given.shape != expected.shape:
        return False
    finite = given.isfinite()
    if not torch.equal(finite, expected.isfinite()):
        return False
    given, expected = given[finite], expected[finite]
    largest = float(given.abs().max()) if given.numel() else 0.0
    share = max(1e-3, _ROUNDINGS * torch.finfo(given.dtype).eps)
    return torch.allclose(given, expected, rtol=1e-2, atol=share * largest)
