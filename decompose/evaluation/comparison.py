"""Compare a smaller model with its original: costs, weights and outputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

from torch import Tensor, nn

from decompose.algebra import Deviation, compose, weight_deviation
from decompose.evaluation.output_comparison import RunningComparison
from decompose.layers.batchnorm import fold_pairs, folded_of
from decompose.layers.channel_pruning import embedded, kept_outputs, method_and_rank
from decompose.layers.costs import count_macs, count_params, trace_shapes
from decompose.layers.discovery import find_layers
from decompose.layers.forward import comparable_outputs, evaluating, warn_of_infinite
from decompose.layers.global_pooling import averaged_as
from decompose.layers.hooks import observing
from decompose.layers.modules import to_expression
from decompose.utils.batches import Batches, Example, batch_size, chunks
from decompose.utils.errors import DecomposeError
from decompose.utils.progress import track
from decompose.utils.tables import Table, format_count

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
    """One convolution or fully connected layer before and after.

    Attributes:
        name: its full name.
        method: what rewrote it; ``dense`` if nothing did.
        rank: its rank, those of its factors behind it; empty if dense.
        macs: MACs for one input of the model.
        params: weights and biases.
        weight_error: relative squared error of the composed kernel.
        output_error: relative squared error of the layer's output, errors of earlier layers
            included; ``None`` where only weights were compared.
    """

    name: str
    method: str
    rank: str
    macs: Change
    params: Change
    weight_error: float
    output_error: float | None = None


@dataclass(frozen=True)
class Comparison:
    """A model beside the smaller one made from it.

    A relative squared error is the sum of squared differences over the sum of squares.

    Attributes:
        layers: the convolutions and fully connected layers, in the model's order.
        macs: of all convolutions and fully connected layers, for one input.
        params: of the whole model.
        weight_error: relative squared error of all kernels together.
        output_error: relative squared error of all that the model returns, of a detector of what
            its heads give; ``None`` where only weights were compared.
        agreement: share of inputs whose highest score is that of the same class; ``None`` where
            the output is no vector of scores.
        num_inputs: inputs that the outputs were compared on.
        output_interval: where the output error lies with 95 % confidence, the inputs being a draw from
            many; ``None`` with fewer than 13 inputs.
    """

    layers: tuple[LayerComparison, ...]
    macs: Change
    params: Change
    weight_error: float
    output_error: float | None = None
    agreement: float | None = None
    num_inputs: int = 0
    output_interval: tuple[float, float] | None = None

    def table(self, *, weights: bool = True) -> Table:
        """A row a layer, and one for the model.

        Args:
            weights: show the error of kernels, which says nothing about layers that were refitted: where
                their inputs never lie, a kernel may be anything.
        """
        columns = ["layer", "method", "terms", "MMACs", "after", "ratio", "k\nparams", "after"]
        title = "Before and after"
        if weights:
            columns.append("weight\nerror")
        if self.output_error is not None:
            columns.append("output\nerror")
            title += f"; output error on {self.num_inputs} inputs"
        rows = [
            (layer.name, layer.method, layer.rank, *_cells(layer, weights=weights))
            for layer in self.layers
        ]
        return Table(title, columns, rows, ("model", "", "", *_cells(self, weights=weights)))

    def to_dict(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Comparison:
        """Read the result of ``to_dict``."""
        layers = tuple(LayerComparison(**_with_changes(layer)) for layer in record["layers"])
        interval = record.get("output_interval")
        interval = None if interval is None else tuple(interval)
        return cls(**{**_with_changes(record), "layers": layers, "output_interval": interval})

    def __str__(self) -> str:
        agreement = "" if self.agreement is None else f"\nSame top-1 class: {self.agreement:.1%}\n"
        return f"{self.table()}{agreement}"


def compare(model: nn.Module, small: nn.Module, images: Batches) -> Comparison:
    """Compare a smaller model with its original: costs, weights and outputs.

    Args:
        model: the original; left as it was, as is ``small``.
        small: the model that ``apply`` made from it.
        images: inputs, a tensor ``(batch, ...)`` in the model's dtype, or an iterable of batches. MACs
            are counted for one input of the first batch's size.

    Returns:
        MACs, parameters and relative squared errors of each layer and of the whole model; printed, a
        table.

    Raises:
        DecomposeError: ``small`` was not made from ``model``, or there are no inputs.

    Examples:
        >>> import torch
        >>> import decompose
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.Conv2d(16, 16, 3)).eval()
        >>> images = torch.randn(4, 8, 16, 16)
        >>> plan = decompose.plan(model, images[:1], method="spatial", rank=8)
        >>> found = decompose.compare(model, decompose.apply(plan, model), images)
        >>> found.macs.before, found.macs.after, round(found.macs.ratio, 2)
        (557568, 238080, 2.34)
        >>> 0 < found.output_error < 1
        True
    """
    inputs = chunks(images, _CHUNK)
    first = next(inputs)
    model = fold_pairs(model, folded_of(small))
    comparison = compare_weights(model, small, first)
    run = _LayerOutputs(model, small, [layer.name for layer in comparison.layers])
    total = -(-len(images) // _CHUNK) if isinstance(images, Tensor) else None
    for chunk in track(chain([first], inputs), "comparing outputs", total):
        run.add(chunk)
    outputs = run.outputs
    warn_of_infinite(outputs.num_infinite, outputs.num_outputs)
    return replace(
        comparison,
        layers=tuple(
            replace(layer, output_error=run.layers[layer.name].relative)
            for layer in comparison.layers
        ),
        output_error=outputs.total.relative,
        agreement=outputs.agreement,
        num_inputs=outputs.num_inputs,
        output_interval=outputs.interval,
    )


def compare_weights(model: nn.Module, small: nn.Module, example: Example) -> Comparison:
    """Compare a smaller model with its original without images: costs and weights.

    Args:
        model: the original; left as it was, as is ``small``.
        small: the model that ``apply`` made from it.
        example: one batch; only its shape matters.

    Raises:
        DecomposeError: ``small`` was not made from ``model``, or does not take the example.
    """
    model = fold_pairs(model, folded_of(small))
    originals, layers = find_layers(model), find_layers(small)
    if unknown := [name for name in originals if name not in layers]:
        raise DecomposeError(
            f"the smaller model was not made from the other: it lacks {', '.join(unknown[:5])}"
        )
    shapes = trace_shapes(model, example)
    before, after = count_macs(model, shapes), count_macs(small, shapes)
    compared, deviation = [], Deviation()
    for name, original in originals.items():
        layer = layers[name]
        difference = _layer_deviation(name, original, layer)
        deviation += difference
        compared.append(
            LayerComparison(
                name,
                *method_and_rank(layer),
                Change(before[name], after[name]),
                Change(count_params(original), count_params(layer)),
                difference.relative,
            )
        )
    return Comparison(
        tuple(compared),
        Change(sum(before.values()), sum(after.values())),
        Change(count_params(model), count_params(small)),
        deviation.relative,
    )


def _layer_deviation(name: str, original: nn.Module, layer: nn.Module) -> Deviation:
    try:
        whole = compose(to_expression(original))
        kernel = compose(to_expression(layer))
        kernel = embedded(kernel, layer, whole.out_channels, whole.in_channels)
        return weight_deviation(kernel, whole)
    except (TypeError, ValueError) as error:
        raise DecomposeError(
            f"the smaller model was not made from the other: {name} differs: {error}"
        ) from None


def _with_changes(record: Mapping[str, Any]) -> dict[str, Any]:
    changes = {key: Change(**record[key]) for key in ("macs", "params")}
    return {**record, **changes}


class _LayerOutputs:
    """Adds up the squared differences of two models' outputs and of their layers', chunk by chunk."""

    def __init__(
        self,
        model: nn.Module,
        small: nn.Module,
        names: Sequence[str],
    ) -> None:
        self._model, self._small = model, small
        originals, rewritten = find_layers(model), find_layers(small)
        self._originals = {name: originals[name] for name in names}
        self._rewritten = {name: rewritten[name] for name in names}
        self.layers = dict.fromkeys(names, Deviation())
        self.outputs = RunningComparison()

    def add(self, x: Example) -> None:
        """Run both models on one more batch."""
        expected: dict[str, list[Tensor]] = defaultdict(list)

        def keep(name: str, _: Tensor, output: Tensor) -> None:
            # An activation in place would overwrite what is only referred to.
            expected[name].append(output.clone())

        def compare_layer(name: str, _: Tensor, output: Tensor) -> None:
            layer = self._rewritten[name]
            reference = averaged_as(layer, kept_outputs(layer, expected[name].pop(0)))
            self.layers[name] += Deviation.between(output, reference)

        with evaluating(self._model, self._small):
            with observing(self._originals, keep):
                references = comparable_outputs(self._model, x)
            with observing(self._rewritten, compare_layer):
                outputs = comparable_outputs(self._small, x)
        self.outputs.add(references, outputs, batch_size(x))


def _cells(item: LayerComparison | Comparison, *, weights: bool) -> tuple[str, ...]:
    return (
        format_count(item.macs.before / 1e6),
        format_count(item.macs.after / 1e6),
        f"{item.macs.ratio:.2f}",
        format_count(item.params.before / 1e3),
        format_count(item.params.after / 1e3),
        *([f"{item.weight_error:.4f}"] if weights else []),
        *([] if item.output_error is None else [f"{item.output_error:.4f}"]),
    )
