"""Compare models by their outputs alone, where the files of one or both show no layers.

ONNX and OpenVINO models are compared so: the nodes of a decomposed layer, and the bytes of a quantised one,
are no layers of the original's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from decompose.algebra import Deviation
from decompose.evaluation.confidence_intervals import ratio_of_sums
from decompose.layers.forward import comparable_outputs, evaluating, warn_of_infinite
from decompose.utils.batches import Example, batch_size
from decompose.utils.errors import DecomposeError
from decompose.utils.tables import Table


@dataclass(frozen=True)
class OutputComparison:
    """The outputs of a model beside those of its original.

    Attributes:
        output_error: relative squared error of all that the model returns.
        output_interval: where it lies with 95 % confidence, the inputs being a draw from many; ``None``
            with few inputs.
        agreement: share of inputs whose highest score is that of the same class; ``None`` where the
            output is no vector of scores.
        num_inputs: inputs that the outputs were compared on.
    """

    output_error: float
    output_interval: tuple[float, float] | None
    agreement: float | None
    num_inputs: int

    def table(self) -> Table:
        """One row."""
        low, high = self.output_interval or (None, None)
        row = (
            f"{self.output_error:.4f}",
            "" if low is None else f"{low:.4f} to {high:.4f}",
            "" if self.agreement is None else f"{self.agreement:.1%}",
        )
        title = f"Outputs on {self.num_inputs} inputs"
        return Table(title, ["output error", "with 95 % confidence", "same class"], [row])

    def to_dict(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return asdict(self)


def compare_outputs(
    model: nn.Module, small: nn.Module, inputs: Iterable[tuple[Example, Example]]
) -> OutputComparison:
    """Compare a model's outputs with its original's.

    Args:
        model: the original; left as it was, as is ``small``.
        small: made from it by any tool.
        inputs: batches of the same images in the preprocessing of each.

    Raises:
        DecomposeError: there are no inputs, or the outputs differ in shape.
    """
    running = RunningComparison()
    with evaluating(model, small):
        for x, other in inputs:
            running.add(
                comparable_outputs(model, x), comparable_outputs(small, other), batch_size(x)
            )
    if not running.num_inputs:
        raise DecomposeError("there are no inputs")
    warn_of_infinite(running.num_infinite, running.num_outputs)
    return OutputComparison(
        running.total.relative, running.interval, running.agreement, running.num_inputs
    )


class RunningComparison:
    """Adds up the squared differences of two models' outputs, batch by batch.

    Attributes:
        total: of all batches.
        num_inputs: that were added.
        num_outputs: numbers in the original's outputs.
        num_infinite: of these, NaN or infinite.
    """

    def __init__(self) -> None:
        self.total = Deviation()
        self.num_inputs = self.num_outputs = self.num_infinite = 0
        self._same_class: int | None = 0
        self._batches: list[Deviation] = []

    @property
    def agreement(self) -> float | None:
        """Share of inputs of the same class; ``None`` where outputs are no scores."""
        return None if self._same_class is None else self._same_class / self.num_inputs

    @property
    def interval(self) -> tuple[float, float] | None:
        """Interval of the error, from its variance between batches."""
        errors = np.array([batch.squared_error for batch in self._batches])
        estimate = ratio_of_sums(errors, np.array([batch.energy for batch in self._batches]))
        return None if estimate is None else (estimate.low, estimate.high)

    def add(self, references: list[Tensor], outputs: list[Tensor], num_inputs: int) -> None:
        """Add a batch's outputs of the original and of the other model.

        Raises:
            DecomposeError: they differ in number or shape.
        """
        shapes = [[tuple(y.shape[1:]) for y in ys] for ys in (references, outputs)]
        if shapes[0] != shapes[1]:
            raise DecomposeError(f"outputs differ: {shapes[0]} of the one model, {shapes[1]}")
        batch = Deviation()
        for output, reference in zip(outputs, references, strict=True):
            batch += Deviation.between(output, reference)
            self.num_outputs += reference.numel()
            self.num_infinite += int((~torch.isfinite(reference)).sum())
        self.total += batch
        self._batches.append(batch)
        self.num_inputs += num_inputs
        if self._same_class is not None and [reference.ndim for reference in references] == [2]:
            same = _highest(outputs[0]) == _highest(references[0])
            self._same_class += int(same.sum())
        else:
            self._same_class = None


def _highest(scores: Tensor) -> Tensor:
    """The class with the highest score, ``(batch,)``; NaN is none."""
    return scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).argmax(1)
