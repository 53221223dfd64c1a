"""The rewritten layers of a network, and those of them that have lost something."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from decompose.algebra import is_exact
from decompose.layers.discovery import find_layers, find_originals
from decompose.layers.modules import DecomposedLayer, Original, to_conv
from decompose.utils.errors import DecomposeError


def find_rewritten(model: nn.Module) -> dict[str, DecomposedLayer]:
    """The rewritten layers of a network, by their full names."""
    layers = find_layers(model).items()
    return {name: layer for name, layer in layers if isinstance(layer, DecomposedLayer)}


def find_inexact(
    small: nn.Module, model: nn.Module, names: Iterable[str]
) -> dict[str, tuple[DecomposedLayer, Original]]:
    """The rewritten layers that have lost something, each with the original's, by full name.

    What is exact has nothing to win back. It could only be bent to make good what other layers lost, on
    inputs like those at hand; on others a classifier bent so can be ruined.

    Args:
        small: what ``apply`` made of the model.
        model: the original.
        names: of layers, in the order wished for.

    Raises:
        DecomposeError: ``small`` was not made from ``model``.
    """
    rewritten, originals = find_rewritten(small), find_originals(model)
    found = {}
    for name in filter(rewritten.__contains__, names):
        if name not in originals:
            raise DecomposeError(f"layer {name}: it is rewritten in the original as well")
        layer, original = rewritten[name], originals[name]
        try:
            exact = is_exact(layer.expression, to_conv(original))
        except ValueError as error:
            raise DecomposeError(
                f"layer {name} was not made from the original's: {error}"
            ) from None
        if not exact:
            found[name] = layer, original
    return found
