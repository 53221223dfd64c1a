"""What the papers do to a layer with data, one after another, and to a network layer by layer.

Layers are treated in the order in which they run, each on what it sees now and towards what the
original makes of its own input: the asymmetric reconstruction of Zhang et al. 2016 (arXiv
1505.06798, section 3.3). Within a layer, as He et al. 2017 (arXiv 1707.06168, section 4.1) combine
theirs: its inputs are pruned, the kernel that is left is decomposed spatially, the last factor of
that by channels. Network decoupling (Guo et al. 2018) comes last, to whatever kernel takes fewer
weights by it. Alone it needs no data; after other methods the last factors are refitted to the data
once more, which the paper does not say.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from decompose.algebra import Conv, Expression, at_least_float32, keep_outputs, leaves, widened
from decompose.choices import Choice
from decompose.convert import like_original
from decompose.errors import DecomposeError
from decompose.lasso import moments, refit_inputs, select_inputs
from decompose.layers import find_originals, obstacle
from decompose.methods import DEFAULT_METHOD, get_method
from decompose.modules import DecomposedLayer, Original, to_conv, to_module
from decompose.progress import track
from decompose.pruning import Kept, put_, remember_kept, shrink_normalisations_
from decompose.reconstruction import (
    RIDGE,
    ROUNDS,
    decompose_channels,
    decompose_spatially,
    refit_last,
)
from decompose.rectification import Rectifier, find_rectifiers
from decompose.sampling import Sampler, Samples
from decompose.successions import Succession, find_successions
from decompose.wishes import num_weights


@dataclass(frozen=True)
class Treatment:
    """What is done to one layer; what is ``None`` is not.

    Attributes:
        num_inputs: input channels that are kept.
        spatial: rank of spatial decomposition, or its bound where that is less.
        channel: rank of channel decomposition, of what is last by then, likewise.
        energy: share of each kernel's energy that network decoupling keeps.
        method: the order of network decoupling.
    """

    num_inputs: int | None = None
    spatial: int | None = None
    channel: int | None = None
    energy: float | None = None
    method: str = DEFAULT_METHOD

    @property
    def needs_data(self) -> bool:
        """Whether there is anything to fit: network decoupling alone needs none."""
        return any(part is not None for part in (self.num_inputs, self.spatial, self.channel))


def apply_treatments(
    treatments: Mapping[str, Treatment],
    model: nn.Module,
    sampler: Sampler,
    *,
    ridge: float = RIDGE,
    rounds: int = ROUNDS,
) -> nn.Module:
    """Treat layers of a network.

    A network whose channels were pruned is a module like any other, but no plan tells how to
    rebuild it from its architecture: save its ``state_dict`` together with your own code.

    Args:
        treatments: by the full names of convolutions of one group.
        model: left as it was.
        sampler: of the model, for these layers.
        ridge: pull of every fit towards what is known without data, in the units of ``regression``.
        rounds: alternations of the rectified channel decomposition with each penalty.

    Returns:
        A new network.

    Raises:
        DecomposeError: inputs are to be pruned and the model cannot be traced, a layer has groups or
            cannot be swapped for another module, or a method cannot take it.
    """
    originals = find_originals(model)
    for name, treatment in treatments.items():
        if name not in originals:
            raise DecomposeError(f"layer {name}: there is no such dense layer")
        if reason := _obstacle(originals[name], treatment):
            raise DecomposeError(f"layer {name} cannot be treated: {reason}")
    prunes = any(treatment.num_inputs is not None for treatment in treatments.values())
    work = _Work(model, find_successions(model) if prunes else {})
    rectifiers = {
        name: Rectifier(at_least_float32(r.slope).cpu(), at_least_float32(r.offset).cpu())
        for name, r in find_rectifiers(model, sampler.example, treatments).items()
    }
    todo = [name for name in sampler.names if name in treatments]
    for name in track(todo, "treating layers"):
        treatment = treatments[name]
        if treatment.num_inputs is not None and (reason := work.obstacle(name)):
            warnings.warn(f"{name}: its inputs are not pruned: {reason}", stacklevel=2)
            treatment = replace(treatment, num_inputs=None)
        if treatment == Treatment():
            continue
        samples = sampler.sample(work.small, name) if treatment.needs_data else None
        if treatment.num_inputs is not None:
            assert samples is not None
            samples = work.prune(name, treatment.num_inputs, samples, ridge)
        conv, rectifier = work.convs[name], rectifiers.get(name)
        work.take(name, *treat(conv, treatment, samples, rectifier, ridge=ridge, rounds=rounds))
    return work.small


def treat(
    conv: Conv,
    treatment: Treatment,
    samples: Samples | None = None,
    rectifier: Rectifier | None = None,
    *,
    ridge: float = RIDGE,
    rounds: int = ROUNDS,
) -> tuple[Expression, Choice | None]:
    """Decompose one layer, its inputs pruned already.

    Args:
        conv: the layer, in float32 at least, on the CPU.
        treatment: what is done.
        samples: of the layer; not needed where network decoupling is all that is done.
        rectifier: what follows it.
        ridge: as for ``apply_treatments``.
        rounds: as for ``apply_treatments``.

    Returns:
        What it becomes, and the choice that says so; ``None`` where it stays one convolution.
    """
    treatment = _bounded(treatment, conv)
    assert samples is not None or not treatment.needs_data
    expression: Expression = conv
    if samples is not None and treatment.spatial is not None:
        expression = decompose_spatially(conv, samples, treatment.spatial, rectifier, ridge=ridge)
    if samples is not None and treatment.channel is not None:
        expression = decompose_channels(
            expression, samples, treatment.channel, rectifier, ridge=ridge, rounds=rounds
        )
    decoupled: list[Choice | None] = [_decoupling(leaf, treatment) for leaf in leaves(expression)]
    if any(decoupled):
        expression = Choice("", 0, tuple(decoupled)).go_on(expression)
        if samples is not None:
            expression = refit_last(expression, samples, rectifier, ridge=ridge)
    return expression, _choice(treatment, decoupled)


def _obstacle(module: Original, treatment: Treatment) -> str | None:
    grouped = treatment.needs_data and to_conv(module).groups != 1
    return "it has groups" if grouped else obstacle(module)


def _bounded(treatment: Treatment, conv: Conv) -> Treatment:
    spatial, channel = treatment.spatial, treatment.channel
    return replace(
        treatment,
        spatial=spatial and min(spatial, get_method("spatial").max_rank(conv)),
        channel=channel and min(channel, conv.out_channels),
    )


def _decoupling(leaf: Conv, treatment: Treatment) -> Choice | None:
    """Network decoupling of a kernel, where that takes fewer weights."""
    method = get_method(treatment.method)
    if treatment.energy is None or method.obstacle(leaf) is not None:
        return None
    choice = Choice(method.name, method.rank_for_energy(leaf, treatment.energy))
    smaller = num_weights(choice.rewrite(leaf.without_weights())) < leaf.weight.numel()
    return choice if smaller else None


def _choice(treatment: Treatment, decoupled: list[Choice | None]) -> Choice | None:
    if treatment.spatial is None and treatment.channel is None:
        return decoupled[0]
    if treatment.channel is None:
        assert treatment.spatial is not None
        return Choice("spatial", treatment.spatial, tuple(decoupled))
    if treatment.spatial is None:
        return Choice("channel", treatment.channel, tuple(decoupled))
    first, *others = decoupled
    inner = Choice("channel", treatment.channel, tuple(others))
    return Choice("spatial", treatment.spatial, (first, inner))


class _Work:
    """A network on its way."""

    def __init__(self, model: nn.Module, successions: Mapping[str, Succession]) -> None:
        self.small = copy.deepcopy(model)
        self._originals, self._successions = find_originals(model), successions
        self.convs: dict[str, Conv] = {}
        for name, module in self._originals.items():
            wide = widened(to_conv(module))
            assert isinstance(wide, Conv)
            bias = None if wide.bias is None else wide.bias.cpu()
            self.convs[name] = replace(wide, weight=wide.weight.cpu(), bias=bias)
        self._made: dict[str, tuple[Expression, Choice | None]] = {
            name: (conv, None) for name, conv in self.convs.items()
        }
        self._kept: dict[str, Kept] = dict.fromkeys(self.convs, Kept())

    def obstacle(self, consumer: str) -> str | None:
        """Why a layer's inputs cannot be pruned, or ``None`` if they can."""
        succession = self._successions.get(consumer)
        if succession is None:
            return "no one layer writes them for it alone"
        for name in (consumer, succession.producer):
            if self.convs[name].groups != 1:
                return f"{name} has groups"
            if reason := obstacle(self._originals[name]):
                return f"{name}: {reason}"
        return None

    def prune(self, name: str, num_kept: int, samples: Samples, ridge: float) -> Samples:
        """Choose a layer's inputs, refit it, and let nothing write the others."""
        rows = moments(samples)
        kept = select_inputs(self.convs[name], rows, num_kept)
        self.convs[name] = refit_inputs(self.convs[name], rows, kept, ridge=ridge)
        self._kept[name] = self._kept[name]._replace(inputs=kept)
        self.take(name, self.convs[name], None)
        self._shrink(self._successions[name], kept)
        return samples.of_inputs(kept)

    def take(self, name: str, expression: Expression, choice: Choice | None) -> None:
        """Put what a layer became in its place."""
        self._made[name] = expression, choice
        original = self._originals[name]
        module = to_module(expression)
        if choice is not None:
            standing = to_module(self.convs[name])
            module = DecomposedLayer(standing, expression, choice)  # type: ignore[arg-type]
        module.to(original.weight.device, original.weight.dtype)
        remember_kept(module, self._kept[name])
        put_(self.small, name, like_original(original, module))

    def _shrink(self, succession: Succession, kept: Tensor) -> None:
        name = succession.producer
        expression, choice = self._made[name]
        smaller = keep_outputs(self.convs[name], kept)
        assert isinstance(smaller, Conv)
        self.convs[name] = smaller
        self._kept[name] = self._kept[name]._replace(outputs=kept)
        self.take(name, keep_outputs(expression, kept), choice)
        shrink_normalisations_(self.small, succession.normalisations, kept)
