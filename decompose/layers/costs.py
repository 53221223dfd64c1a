"""Trace input shapes, and count the MACs and parameters of layers and models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from math import prod

from torch import Tensor, nn

from decompose.algebra import (
    Expression,
    leaves,
    macs,
)
from decompose.layers.detectors import with_all_proposals
from decompose.layers.discovery import find_layers
from decompose.layers.forward import evaluating
from decompose.layers.hooks import observing
from decompose.layers.modules import DecomposedLayer, to_expression
from decompose.utils.batches import Example, call, first, shape_text
from decompose.utils.errors import DecomposeError, first_line

Shapes = Mapping[str, list[tuple[int, ...]]]
"""Input shapes of every layer, one for each of its calls."""


def trace_shapes(model: nn.Module, example: Example) -> Shapes:
    """Trace the input shapes of every layer, in a pass of the first of the example's inputs.

    The second stage of a detector gets as many boxes as the first may propose (``detectors``).

    Args:
        model: left as it was, its mode and running statistics included.
        example: one batch (``utils.batches``); only its first input is used.

    Raises:
        DecomposeError: the model does not take the example.
    """
    shapes: dict[str, list[tuple[int, ...]]] = defaultdict(list)

    def record(name: str, x: Tensor, _: Tensor) -> None:
        shapes[name].append(tuple(x.shape))

    with evaluating(model), with_all_proposals(model), observing(find_layers(model), record):
        try:
            call(model, first(example))
        except (RuntimeError, TypeError, ValueError, LookupError, AssertionError) as error:
            raise DecomposeError(
                f"the model does not take an input of shape {shape_text(example)}: "
                f"{first_line(error)}"
            ) from error
    return dict(shapes)


def count_macs(model: nn.Module, shapes: Shapes) -> dict[str, int]:
    """Count the MACs of every layer for one input of the model; 0 for layers that it does not reach.

    Convolutions that a model names in ``other_macs`` are counted with them.

    Args:
        model: any module.
        shapes: from ``trace_shapes`` of it, or of the model that it was made from.
    """
    counted = {
        name: sum(layer_macs(layer, shape) for shape in shapes.get(name, ()))
        for name, layer in find_layers(model).items()
    }
    # Of convolutions that are no modules, which a model that came as a graph may have.
    return counted | dict(getattr(model, "other_macs", {}))


def count_params(*modules: nn.Module) -> int:
    """Count the parameters of modules together, shared ones once.

    So are those that a model names together in ``tied_parameters``, as its file holds them once.
    """
    first = _first_of_tied(*modules)
    unique = {first.get(id(p), id(p)): p.numel() for module in modules for p in module.parameters()}
    return sum(unique.values())


def count_params_beside(model: nn.Module, layers: Mapping[str, nn.Module]) -> int:
    """Number of parameters that a model holds in other modules than these layers of it.

    Args:
        model: which holds them.
        layers: by full name.
    """
    first = _first_of_tied(model)
    beside = _parameters_beside(model, layers).values()
    return sum({first.get(id(p), id(p)): p.numel() for p in beside}.values())


def find_sharers(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """Find the layers whose weight is also a parameter of a module that is none of them.

    Args:
        model: which holds them.
        layers: by full name.

    Returns:
        By layer, the full name of such a parameter, ``embedding.weight`` for example.
    """
    first = _first_of_tied(model)
    elsewhere = {
        first.get(id(p), id(p)): name for name, p in _parameters_beside(model, layers).items()
    }
    weights = {
        name: layer.get_parameter("weight")
        for name, layer in layers.items()
        if not isinstance(layer, DecomposedLayer)
    }
    known = {name: first.get(id(weight), id(weight)) for name, weight in weights.items()}
    return {name: elsewhere[weight] for name, weight in known.items() if weight in elsewhere}


def _parameters_beside(
    model: nn.Module, layers: Mapping[str, nn.Module]
) -> dict[str, nn.Parameter]:
    """The parameters of modules that are none of these layers, by full name."""
    own = {id(part) for layer in layers.values() for part in layer.modules()}
    return {
        f"{name}.{attribute}": parameter
        for name, module in model.named_modules()
        if id(module) not in own
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
    }


def _first_of_tied(*modules: nn.Module) -> dict[int, int]:
    """By the ``id`` of a tied parameter, that of the first one that it is tied to."""
    groups = [group for module in modules for group in getattr(module, "tied_parameters", ())]
    return {id(parameter): id(group[0]) for group in groups for parameter in group}


def layer_macs(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Count the MACs of one call of a layer, decomposed or not.

    Args:
        module: a convolution, a fully connected layer or a ``DecomposedLayer``.
        input_shape: of the whole input tensor, batch included.
    """
    return expression_macs(to_expression(module), input_shape)


def expression_macs(expression: Expression, input_shape: tuple[int, ...]) -> int:
    """Count the MACs of one call of the module that an expression becomes, as ``layer_macs``."""
    num_axes = next(leaves(expression)).geometry.num_axes
    if num_axes == 0:
        return prod(input_shape[:-1]) * macs(expression, ())
    return prod(input_shape[: -num_axes - 1]) * macs(expression, input_shape[-num_axes:])


def macs_counters(shapes: Shapes, names: Iterable[str]) -> dict[str, Callable[[Expression], int]]:
    """Functions that count the MACs of an expression instead of a layer, by the layer's name.

    Layers of the same input shapes share one, which remembers what it has counted.
    """
    counter = cache(lambda calls: cache(partial(macs_of_calls, calls)))
    return {name: counter(tuple(shapes[name])) for name in names}


def macs_of_calls(shapes: Sequence[tuple[int, ...]], expression: Expression) -> int:
    """Count the MACs of an expression in all calls of the layer that it replaces."""
    return sum(expression_macs(expression, shape) for shape in shapes)
