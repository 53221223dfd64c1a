"""Survey a model's layers: find, trace and check them once.

Planning, measuring and repairing all need the layers of a model, the shapes that reach them, why some
stay dense, and the readers of their outputs. One look-up and two passes of one input find it all.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from decompose.algebra import Conv, Expression
from decompose.layers.consumers import Consumers, find_consumers
from decompose.layers.costs import Shapes, trace_shapes
from decompose.layers.discovery import find_decomposable, find_layers
from decompose.layers.eligibility import UNREACHED, find_quantised, why_skipped
from decompose.layers.modules import DecomposedLayer, Layer, to_conv, to_expression
from decompose.layers.relu import Rectifier, find_rectifiers
from decompose.utils.batches import Example


@dataclass(frozen=True, eq=False)
class Survey:
    """Facts about a model's layers; it holds references, no copies.

    Attributes:
        model: the model.
        example: the batch that it was surveyed on.
        layers: convolutions, fully connected layers and decomposed ones, by full name.
        shapes: input shapes of every layer that the example reaches, one for each call.
        dense: why layers stay as they are, by full name.
        consumers: the readers of each layer's weight and output.
    """

    model: nn.Module
    example: Example
    layers: Mapping[str, Layer]
    shapes: Shapes
    dense: Mapping[str, str]
    consumers: Consumers

    @cached_property
    def convs(self) -> dict[str, Conv]:
        """The convolutions of the layers that may be decomposed, by full name.

        Of a layer that is decomposed already it is the product of its factors.
        """
        return {
            name: to_conv(module) for name, module in self.layers.items() if name not in self.dense
        }

    @cached_property
    def decomposed(self) -> dict[str, DecomposedLayer]:
        """The layers that are decomposed already and may be so again, by full name."""
        chosen = self.chosen(self.convs).items()
        return {name: layer for name, layer in chosen if isinstance(layer, DecomposedLayer)}

    @cached_property
    def factors(self) -> dict[str, Expression]:
        """The factors of layers that are decomposed already and may be so again, by full name."""
        found = {name: layer.factors for name, layer in self.decomposed.items()}
        return {name: factors for name, factors in found.items() if factors is not None}

    @cached_property
    def expressions(self) -> dict[str, Expression]:
        """The layers that may be decomposed as they are now, by full name."""
        return {**self.convs, **{n: to_expression(layer) for n, layer in self.decomposed.items()}}

    @cached_property
    def num_calls(self) -> dict[str, int]:
        """Calls of each layer that the example reaches, in the order in which they run."""
        return {name: len(seen) for name, seen in self.shapes.items()}

    def chosen(self, names: Iterable[str]) -> dict[str, Layer]:
        """Some of the layers, by full name."""
        return {name: self.layers[name] for name in names}

    def rectifiers(self, names: Iterable[str]) -> dict[str, Rectifier]:
        """The rectifiers that follow some of the layers, by full name."""
        return find_rectifiers(self.consumers, self.chosen(names))

    def warn_of_readers(self, stacklevel: int) -> None:
        """Warn of layers that stay dense because of the way in which the model uses them.

        Args:
            stacklevel: of the warning, counted from the caller.
        """
        if readers := self.consumers.weights:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in readers.items())
            warnings.warn(f"left dense: {reasons}", stacklevel=stacklevel + 1)


def survey(model: nn.Module, example: Example, skip: Sequence[str] = ()) -> Survey:
    """Survey the layers of a model.

    Args:
        model: left as it was, its mode and running statistics included.
        example: one batch (``utils.batches``); only its first input is used.
        skip: names of layers, or patterns, to leave dense.

    Raises:
        DecomposeError: weights are not finite or there are none yet, or the model does not take the
            example.
    """
    layers = find_decomposable(model)
    if not find_layers(model):
        return Survey(model, example, {}, {}, find_quantised(model), Consumers({}, {}, {}))
    shapes = trace_shapes(model, example)
    reasons = {
        name: reason
        for name, module in layers.items()
        if (reason := why_skipped(name, module, skip, reached=name in shapes))
    }
    # A layer that is never called may be read all the same.
    watched = {n: m for n, m in layers.items() if reasons.get(n, UNREACHED) == UNREACHED}
    consumers = find_consumers(model, example, watched, whole=_others(model, watched))
    dense = find_quantised(model) | reasons | dict(consumers.weights)
    return Survey(model, example, layers, shapes, dense, consumers)


def _others(model: nn.Module, watched: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The other layers of a model, and its BatchNorms."""
    # timm's have a rectifier inside and are subclasses.
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    norms = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    return {name: m for name, m in {**find_layers(model), **norms}.items() if name not in watched}
