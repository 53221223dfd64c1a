"""Find pairs of layers of which the second alone reads the first, for channel pruning.

A layer depends on another if its input is that one's output, through nothing but operators that treat
each channel by itself, such as ReLU, BatchNorm and pooling, and if nothing else reads the output on its
way (``layers.consumers``).
"""

from __future__ import annotations

from dataclasses import dataclass

from decompose.layers.consumers import NORMALISERS
from decompose.layers.discovery import find_layers
from decompose.layers.modules import CONVOLUTIONS, DecomposedLayer
from decompose.layers.survey import Survey


@dataclass(frozen=True)
class Dependency:
    """A layer, and the one layer that reads its output.

    Attributes:
        producer: the full name of the layer that writes it.
        consumer: of the layer that reads it.
        normalisations: of the normalisations between, in their order.
    """

    producer: str
    consumer: str
    normalisations: tuple[str, ...] = ()


def find_dependencies(survey: Survey) -> dict[str, Dependency]:
    """Find the pairs of convolutions of which the second alone reads the first, by consumer.

    Args:
        survey: of the model.
    """
    layers = find_layers(survey.model)
    once = {
        name
        for name, module in layers.items()
        if isinstance(module, (*CONVOLUTIONS, DecomposedLayer)) and survey.num_calls.get(name) == 1
    }
    found = {}
    for producer in filter(once.__contains__, survey.consumers.outputs):
        dependency = _follow(producer, survey, once)
        if dependency is not None:
            found[dependency.consumer] = dependency
    return found


def _follow(producer: str, survey: Survey, layers: set[str]) -> Dependency | None:
    """Find the one layer that reads a producer's output, and the normalisations between."""
    consumers = survey.consumers
    (value,) = consumers.outputs[producer]
    normalisations: list[str] = []
    while len(value.uses) == 1 and (behind := value.uses[0].result) is not None:
        use = value.uses[0]
        if use.operator in NORMALISERS:
            if not use.inside:
                return None
            normalisations.append(use.inside)
        value = behind
    readers = {use.inside for use in value.uses}
    consumer = readers.pop() if len(readers) == 1 else ""
    if consumer not in layers or list(consumers.inputs[consumer]) != [value]:
        return None
    return Dependency(producer, consumer, tuple(normalisations))
