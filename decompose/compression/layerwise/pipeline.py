"""Prune and decompose the layers of a model from data, one after another, as the papers do.

Layers are decomposed in the order in which they run, each on its present input and towards the output
that the original's layer has for its own input: the asymmetric reconstruction of Zhang et al. 2016 (arXiv
1505.06798, section 3.3). Within a layer, as He et al. 2017 (arXiv 1707.06168, section 4.1) combine
theirs: its inputs are pruned, the kernel that is left is decomposed spatially, the last factor of
that by channels. Network decoupling (Guo et al. 2018) comes last, for each kernel that takes fewer
weights by it. Alone it needs no data; after other methods the last factors are refitted to the data
once more, which the paper does not say.

Each layer takes a pass up to it; where all inputs fit into one batch, one pass does for all layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from decompose.algebra import Conv, Expression, at_least_float32, leaves
from decompose.compression.layerwise.low_rank_regression import (
    RIDGE,
    ROUNDS,
    decompose_channels,
    decompose_spatially,
    refit_last,
)
from decompose.compression.layerwise.partial_model import PartialModel
from decompose.compression.layerwise.sampling import Sampler, Samples
from decompose.layers.channel_pruning import put_
from decompose.layers.dependencies import find_dependencies
from decompose.layers.eligibility import why_not_decomposable
from decompose.layers.forward import evaluating
from decompose.layers.modules import Layer, to_conv
from decompose.layers.relu import Rectifier
from decompose.methods import DEFAULT_METHOD, get_method
from decompose.methods.choices import Choice
from decompose.methods.combinations import num_weights
from decompose.utils.errors import DecomposeError
from decompose.utils.progress import track


@dataclass(frozen=True)
class LayerSpec:
    """Steps for one layer; those that are ``None`` are left out.

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
        """Whether the steps need data; network decoupling alone needs none."""
        return any(part is not None for part in (self.num_inputs, self.spatial, self.channel))


def compress_layerwise(
    specs: Mapping[str, LayerSpec],
    model: nn.Module,
    sampler: Sampler,
    *,
    ridge: float = RIDGE,
    rounds: int = ROUNDS,
) -> nn.Module:
    """Prune and decompose layers of a model from data.

    A model whose channels were pruned is a module like any other, but no plan can
    rebuild it from its architecture: save its ``state_dict`` together with your own code.

    Args:
        specs: by the full names of convolutions of one group.
        model: left as it was.
        sampler: of the model, for these layers.
        ridge: pull of every fit towards the result without data, in the units of ``ridge``.
        rounds: alternations of the rectified channel decomposition with each penalty.

    Returns:
        A new model.

    Raises:
        DecomposeError: a layer has groups or cannot be swapped for another module, or a method cannot
            take it.
    """
    originals = sampler.survey.layers
    for name, spec in specs.items():
        if name not in originals:
            raise DecomposeError(f"layer {name}: there is no such dense layer")
        if reason := _obstacle(originals[name], spec):
            raise DecomposeError(f"layer {name} cannot be decomposed: {reason}")
    prunes = any(spec.num_inputs is not None for spec in specs.values())
    work = PartialModel(model, originals, find_dependencies(sampler.survey) if prunes else {})
    rectifiers = {
        name: Rectifier(at_least_float32(r.slope).cpu(), at_least_float32(r.offset).cpu())
        for name, r in sampler.survey.rectifiers(specs).items()
    }
    todo = {name: t for name, t in specs.items() if name in sampler.names}
    for name, spec in todo.items():
        if spec.num_inputs is not None and (reason := work.why_not_prunable(name)):
            warnings.warn(f"{name}: its inputs are not pruned: {reason}", stacklevel=2)
            todo[name] = replace(spec, num_inputs=None)

    def decompose_in_place(name: str, samples: Samples | None) -> None:
        """Prune and decompose a layer, by its full name."""
        spec = todo[name]
        if samples is not None and spec.num_inputs is not None:
            samples = work.prune(name, spec.num_inputs, samples, ridge)
        conv, rectifier = work.convs[name], rectifiers.get(name)
        work.take(
            name, *decompose_layer(conv, spec, samples, rectifier, ridge=ridge, rounds=rounds)
        )

    if sampler.batch is not None:
        _decompose_on_arrival(work, sampler, todo, decompose_in_place)
    else:
        for name in track([n for n in sampler.names if n in todo], "decomposing layers"):
            needs_data = todo[name].needs_data
            decompose_in_place(name, sampler.sample(work.small, name) if needs_data else None)
    return work.small


def decompose_layer(
    conv: Conv,
    spec: LayerSpec,
    samples: Samples | None = None,
    rectifier: Rectifier | None = None,
    *,
    ridge: float = RIDGE,
    rounds: int = ROUNDS,
) -> tuple[Expression, Choice | None]:
    """Decompose one layer, its inputs pruned already.

    Args:
        conv: the layer, in float32 at least, on the CPU.
        spec: the steps.
        samples: of the layer; not needed for network decoupling alone.
        rectifier: of the ReLU that follows it, if one does.
        ridge: as for ``compress_layerwise``.
        rounds: as for ``compress_layerwise``.

    Returns:
        The expression, and the choice that made it; ``None`` where it stays one convolution.
    """
    spec = _bounded(spec, conv)
    assert samples is not None or not spec.needs_data
    expression: Expression = conv
    if samples is not None and spec.spatial is not None:
        expression = decompose_spatially(conv, samples, spec.spatial, rectifier, ridge=ridge)
    if samples is not None and spec.channel is not None:
        expression = decompose_channels(
            expression, samples, spec.channel, rectifier, ridge=ridge, rounds=rounds
        )
    decoupled: list[Choice | None] = [_decoupling(leaf, spec) for leaf in leaves(expression)]
    if any(decoupled):
        expression = Choice("", 0, tuple(decoupled)).go_on(expression)
        if samples is not None:
            expression = refit_last(expression, samples, rectifier, ridge=ridge)
    return expression, _choice(spec, decoupled)


def _obstacle(module: Layer, spec: LayerSpec) -> str | None:
    grouped = spec.needs_data and to_conv(module).groups != 1
    return "it has groups" if grouped else why_not_decomposable(module)


def _bounded(spec: LayerSpec, conv: Conv) -> LayerSpec:
    spatial, channel = spec.spatial, spec.channel
    return replace(
        spec,
        spatial=spatial and min(spatial, get_method("spatial").max_rank(conv)),
        channel=channel and min(channel, conv.out_channels),
    )


def _decoupling(leaf: Conv, spec: LayerSpec) -> Choice | None:
    """Choose network decoupling for a kernel, if that takes fewer weights."""
    method = get_method(spec.method)
    if spec.energy is None or method.why_not(leaf) is not None:
        return None
    choice = Choice(method.name, method.rank_for_energy(leaf, spec.energy))
    smaller = num_weights(choice.rewrite(leaf.without_weights())) < leaf.weight.numel()
    return choice if smaller else None


def _choice(spec: LayerSpec, decoupled: list[Choice | None]) -> Choice | None:
    if spec.spatial is None and spec.channel is None:
        return decoupled[0]
    if spec.channel is None:
        assert spec.spatial is not None
        return Choice("spatial", spec.spatial, tuple(decoupled))
    if spec.spatial is None:
        return Choice("channel", spec.channel, tuple(decoupled))
    first, *others = decoupled
    inner = Choice("channel", spec.channel, tuple(others))
    return Choice("spatial", spec.spatial, (first, inner))


def _decompose_on_arrival(
    work: PartialModel,
    sampler: Sampler,
    todo: Mapping[str, LayerSpec],
    decompose_in_place: Callable[[str, Samples | None], None],
) -> None:
    """Decompose each layer when its input arrives, in one pass of all inputs at once."""
    assert sampler.batch is not None

    def make(name: str, x: Tensor) -> Tensor:
        """Decompose a layer, and compute its output from its input ``(batch, I, *input_size)``."""
        decompose_in_place(name, sampler.samples_of(name, x) if todo[name].needs_data else None)
        kept = work.kept_inputs(name)
        made = work.small.get_submodule(name)
        return made(x if kept is None else x.index_select(1, kept.to(x.device)))

    for name in todo:
        put_(work.small, name, _Awaiting(partial(make, name)))
    with evaluating(work.small):
        work.small(sampler.batch)


class _Awaiting(nn.Module):
    """Placeholder for a layer that is decomposed once its input arrives.

    Args:
        make: decomposes the layer and replaces the placeholder; from its input to its output.
    """

    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._make = make

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, I, *input_size)`` to ``(batch, O, *output_size)``."""
        return self._make(x)
