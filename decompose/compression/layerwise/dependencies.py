"""Which layer alone reads what another writes, so that what it does not need need not be written.

The network is traced symbolically (``torch.fx``). A layer succeeds another if its input is that
one's output, through nothing but operators that treat each channel by itself, such as rectifiers,
normalisations and pooling, and if nothing else reads the output on its way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

from decompose.layers.discovery import find_layers
from decompose.layers.modules import CONVOLUTIONS, DecomposedLayer
from decompose.utils.errors import DecomposeError, first_line

_NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

_CHANNELWISE = (
    *_NORMALISATIONS,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.Hardswish,
    nn.SiLU,
    nn.GELU,
    nn.ELU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
)

_FUNCTIONS = {
    F.relu,
    F.relu6,
    F.dropout,
    F.max_pool2d,
    F.avg_pool2d,
    F.adaptive_avg_pool2d,
    torch.relu,
    torch.relu_,
    torch.sigmoid,
    torch.tanh,
}

_METHODS = {"relu", "relu_", "sigmoid", "tanh", "contiguous"}


@dataclass(frozen=True)
class Dependency:
    """One layer's output, read by one other layer.

    Attributes:
        producer: the full name of the layer that writes it.
        consumer: of the layer that reads it.
        normalisations: of the normalisations between, in their order.
    """

    producer: str
    consumer: str
    normalisations: tuple[str, ...] = ()


def find_dependencies(model: nn.Module) -> dict[str, Dependency]:
    """The successions of convolutions, by consumer.

    Args:
        model: left as it was.

    Raises:
        DecomposeError: it cannot be traced.
    """
    layers = {
        name
        for name, m in find_layers(model).items()
        if isinstance(m, (*CONVOLUTIONS, DecomposedLayer))
    }
    try:
        graph = _Tracer().trace(model)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise DecomposeError(
            f"what reads each layer's output cannot be traced: {first_line(error)}"
        ) from None
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    once = {name for name in layers if calls.count(name) == 1}
    found = {}
    for node in graph.nodes:
        if node.op == "call_module" and node.target in once:
            succession = _trace_back(node, model, once)
            if succession is not None:
                found[succession.consumer] = succession
    return found


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Rewritten layers are looked at from outside, like torch's own."""
        return isinstance(m, DecomposedLayer) or super().is_leaf_module(m, module_qualified_name)


def _trace_back(node: fx.Node, model: nn.Module, layers: set[str]) -> Dependency | None:
    normalisations: list[str] = []
    consumer = str(node.target)
    while True:
        read = node.all_input_nodes
        if len(read) != 1 or len(read[0].users) != 1:
            return None
        node = read[0]
        if node.op == "call_module":
            name = str(node.target)
            if name in layers:
                return Dependency(name, consumer, tuple(reversed(normalisations)))
            module = model.get_submodule(name)
            if not isinstance(module, _CHANNELWISE):
                return None
            if isinstance(module, _NORMALISATIONS):
                normalisations.append(name)
        elif not (
            (node.op == "call_function" and node.target in _FUNCTIONS)
            or (node.op == "call_method" and node.target in _METHODS)
        ):
            return None
