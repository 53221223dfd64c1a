"""Find pairs of layers of which the second alone reads the first, for channel pruning.

A layer depends on another if its input is that one's output, through nothing but operators that treat
each channel by itself, such as ReLU, BatchNorm and pooling, and if nothing else reads the output on its
way (``layers.consumers``).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.utils.parametrize import is_parametrized

from decompose.layers.consumers import NORMALISERS
from decompose.layers.discovery import find_layers, is_plain
from decompose.layers.eligibility import SKIPPED, what_is_attached
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


@dataclass(frozen=True)
class HiddenChannels:
    """Channels that one layer writes and one reads, filtered one by one by depthwise layers between.

    The hidden channels of an inverted bottleneck (Sandler et al. 2018, MobileNet v2) are such: a low rank
    saves little there, since they are many and their layers' other side is narrow.

    Attributes:
        consumer: full name of the layer that reads them.
        convs: of the layers that write or filter them, the nearest first.
        normalisations: of the normalisations between.
    """

    consumer: str
    convs: tuple[str, ...]
    normalisations: tuple[str, ...]

    @property
    def writers(self) -> tuple[str, ...]:
        """Full names of all modules that lose a channel with the consumer."""
        return (*self.convs, *self.normalisations)


def find_hidden_channels(survey: Survey) -> dict[str, HiddenChannels]:
    """Find the hidden channels behind depthwise layers, by the layer that reads them.

    Args:
        survey: of the model. Layers that it leaves dense for a reason of the user's are left out.
    """
    dependencies = find_dependencies(survey)
    found = {}
    for consumer in dependencies:
        convs: list[str] = []
        norms: list[str] = []
        name = consumer
        while (dependency := dependencies.get(name)) is not None:
            name = dependency.producer
            convs.append(name)
            norms += dependency.normalisations
            if not _is_depthwise(survey, name):
                break
        hidden = HiddenChannels(consumer, tuple(convs), tuple(norms))
        if len(convs) > 1 and _can_be_narrowed(survey, hidden):
            found[consumer] = hidden
    return found


def _is_depthwise(survey: Survey, name: str) -> bool:
    layer = survey.layers[name]
    if not isinstance(layer, CONVOLUTIONS):
        return False
    return layer.groups == layer.in_channels == layer.out_channels > 1


def _can_be_narrowed(survey: Survey, hidden: HiddenChannels) -> bool:
    """Whether the layers are plain modules, and ends of one group."""
    names = (hidden.consumer, *hidden.convs)
    layers = [o for o in map(survey.layers.__getitem__, names) if isinstance(o, CONVOLUTIONS)]
    return (
        len(layers) == len(names)
        and hidden.consumer in survey.convs
        and all(_is_depthwise(survey, name) for name in hidden.convs[:-1])
        and all(layer.groups == 1 and not layer.transposed for layer in (layers[0], layers[-1]))
        and all(is_plain(layer.weight) and what_is_attached(layer) is None for layer in layers)
        and not any(is_parametrized(layer) for layer in layers)
        and not any(survey.dense.get(n) == SKIPPED or n in survey.consumers.weights for n in names)
    )
