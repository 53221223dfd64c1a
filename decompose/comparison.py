"""How far a smaller network lies from its original, and what it saves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from torch import Tensor, nn

from decompose.algebra import Deviation, weight_deviation
from decompose.errors import DecomposeError
from decompose.layers import (
    count_macs,
    count_params,
    evaluating,
    find_convolutions,
    find_layers,
    observing,
    trace_shapes,
)
from decompose.modules import DecomposedConv, to_conv, to_expression
from decompose.progress import track
from decompose.tables import Table

_CHUNK = 4  # inputs at a time, since the outputs of every layer are held


@dataclass(frozen=True)
class Change:
    """A count before and after."""

    before: int
    after: int

    @property
    def ratio(self) -> float:
        """How many times fewer there are after."""
        return self.before / self.after if self.after else float("inf")

    def __add__(self, other: Change) -> Change:
        return Change(self.before + other.before, self.after + other.after)


@dataclass(frozen=True)
class LayerComparison:
    """One convolution before and after.

    Attributes:
        name: its full name.
        method: what rewrote it; ``dense`` if nothing did.
        rank: its rank; ``None`` if dense.
        macs: MACs for one input of the network.
        params: weights and biases.
        weight: deviation of the composed kernel.
        output: deviation of the layer's output, errors of earlier layers included.
    """

    name: str
    method: str
    rank: int | None
    macs: Change
    params: Change
    weight: Deviation
    output: Deviation


@dataclass(frozen=True)
class Comparison:
    """A network beside the smaller one made from it.

    Attributes:
        layers: the convolutions, in the network's order.
        macs: of all convolutions and fully connected layers, for one input.
        params: of the whole network.
        weight: deviation of all convolution kernels together.
        output: deviation of the network's output.
        agreement: share of inputs whose highest score is that of the same class; ``None`` where
            the output is no vector of scores.
        num_inputs: inputs that the outputs were compared on.
    """

    layers: tuple[LayerComparison, ...]
    macs: Change
    params: Change
    weight: Deviation
    output: Deviation
    agreement: float | None
    num_inputs: int

    def table(self) -> Table:
        """A row a convolution, and one for the network."""
        return Table(
            f"Before and after; output error on {self.num_inputs} inputs",
            ("layer", "method", "terms", "MMACs", "after", "ratio", "k params", "after",
             "weight error", "output error"),
            [
                (layer.name, layer.method, "" if layer.rank is None else str(layer.rank),
                 *_cells(layer))
                for layer in self.layers
            ],
            ("network", "", "", *_cells(self)),
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        agreement = "" if self.agreement is None else f"\nSame top-1 class: {self.agreement:.1%}\n"
        return f"{self.table()}{agreement}"


def compare(model: nn.Module, small: nn.Module, images: Tensor | Iterable[Tensor]) -> Comparison:
    """Set a network beside the smaller one made from it.

    Args:
        model: the original; left as it was, as is ``small``.
        small: what ``apply`` made of it.
        images: inputs ``(batch, ...)``, or an iterable of such, of one shape.

    Raises:
        DecomposeError: ``small`` was not made from ``model``, or there are no inputs.
    """
    chunks = _chunks(images)
    first = next(chunks, None)
    if first is None:
        raise DecomposeError("there are no inputs to compare the networks on")
    originals, layers = find_convolutions(model), find_layers(small)
    if unknown := [name for name in originals if name not in layers]:
        raise DecomposeError(
            f"the smaller network was not made from the other: it lacks {', '.join(unknown[:5])}"
        )
    shapes = trace_shapes(model, first)
    before, after = count_macs(model, shapes), count_macs(small, shapes)
    run = _OutputComparison(model, small, originals, {name: layers[name] for name in originals})
    total = -(-len(images) // _CHUNK) if isinstance(images, Tensor) else None
    for chunk in track(chain([first], chunks), "comparing outputs", total):
        run.add(chunk)
    compared = []
    for name, original in originals.items():
        layer, conv = layers[name], to_conv(original)
        rewritten = isinstance(layer, DecomposedConv)
        compared.append(
            LayerComparison(
                name,
                layer.method if rewritten else "dense",
                layer.rank if rewritten else None,
                Change(before[name], after[name]),
                Change(count_params(original), count_params(layer)),
                weight_deviation(to_expression(layer), conv),
                run.layers[name],
            )
        )
    return Comparison(
        tuple(compared),
        Change(sum(before.values()), sum(after.values())),
        Change(count_params(model), count_params(small)),
        sum((layer.weight for layer in compared), Deviation()),
        run.output,
        run.agreement,
        run.num_inputs,
    )


class _OutputComparison:
    """Adds up, a chunk of inputs at a time, how far the outputs of two networks lie apart."""

    def __init__(
        self,
        model: nn.Module,
        small: nn.Module,
        originals: Mapping[str, nn.Module],
        rewritten: Mapping[str, nn.Module],
    ) -> None:
        self._model, self._small = model, small
        self._originals, self._rewritten = originals, rewritten
        self._same_class: int | None = 0
        self.layers = dict.fromkeys(originals, Deviation())
        self.output = Deviation()
        self.num_inputs = 0

    @property
    def agreement(self) -> float | None:
        return None if self._same_class is None else self._same_class / self.num_inputs

    def add(self, x: Tensor) -> None:
        expected: dict[str, list[Tensor]] = defaultdict(list)

        def keep(name: str, _: Tensor, output: Tensor) -> None:
            # An activation in place would overwrite what is only referred to.
            expected[name].append(output.clone())

        def compare_layer(name: str, _: Tensor, output: Tensor) -> None:
            self.layers[name] += Deviation.between(output, expected[name].pop(0))

        with evaluating(self._model, self._small):
            with observing(self._originals, keep):
                reference = _output(self._model, x)
            with observing(self._rewritten, compare_layer):
                output = _output(self._small, x)
        self.output += Deviation.between(output, reference)
        self.num_inputs += len(x)
        if self._same_class is not None and reference.ndim == 2:
            self._same_class += int((output.argmax(1) == reference.argmax(1)).sum())
        else:
            self._same_class = None


def _chunks(images: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
    for batch in [images] if isinstance(images, Tensor) else images:
        if len(batch):
            yield from batch.split(_CHUNK)


def _output(model: nn.Module, x: Tensor) -> Tensor:
    output = model(x)
    if not isinstance(output, Tensor):
        raise DecomposeError(
            f"the network returns a {type(output).__name__}; only single tensors are compared"
        )
    return output


def _cells(item: LayerComparison | Comparison) -> tuple[str, ...]:
    return (
        f"{item.macs.before / 1e6:,.1f}",
        f"{item.macs.after / 1e6:,.1f}",
        f"{item.macs.ratio:.2f}",
        f"{item.params.before / 1e3:,.1f}",
        f"{item.params.after / 1e3:,.1f}",
        f"{item.weight.relative:.4f}",
        f"{item.output.relative:.4f}",
    )
