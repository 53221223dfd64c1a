"""Measure the contents of a report; ``page`` renders them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from decompose.evaluation.accuracy import Accuracy, Evaluation
from decompose.evaluation.comparison import Comparison, LayerComparison, compare
from decompose.evaluation.confidence_intervals import Estimate, share
from decompose.evaluation.report.spectra import LayerSpectra, layer_spectra
from decompose.inference.benchmark import Benchmark
from decompose.methods import METHODS
from decompose.methods.choices import Note
from decompose.models.conversion import plan_of
from decompose.models.plans import Plan
from decompose.utils.batches import Batches
from decompose.utils.environment import machine
from decompose.utils.errors import DecomposeError

FORMULAS = {
    "pw_dw": "T times (1×1 I→O, then k×k depthwise on O), added",
    "dw_pw": "T times (k×k depthwise on I, then 1×1 I→O), added",
    "spatial": "k×1 I→r, then 1×k r→O",
    "channel": "k×k I→r, then 1×1 r→O",
    "tucker": "1×1 I→q, k×k q→r, 1×1 r→O",
    "cp": "1×1 I→r, k×1 and 1×k depthwise, 1×1 r→O",
    "svd": "1×1 I→r, then 1×1 r→O",
}
"""Each method's factors of a layer with I inputs, O outputs and k×k taps; T, r and q are ranks."""


@dataclass(frozen=True)
class Report:
    """Compressed models beside their original.

    Attributes:
        original: its name.
        comparisons: the compressed models' costs and errors, by name.
        plans: what was chosen for their layers, by name.
        spectra: of the original's layers, by layer name.
        images: the images that outputs were compared on, in words.
        benchmark: the times of all models, the original first; ``None`` where none were taken.
        evaluation: the accuracy of all models, the original first; ``None`` where there are no labels.
        machine: what computed, in words.
    """

    original: str
    comparisons: Mapping[str, Comparison]
    plans: Mapping[str, Plan]
    spectra: Mapping[str, LayerSpectra]
    images: str
    benchmark: Benchmark | None
    evaluation: Evaluation | None
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """The report's figures, ready for JSON: no number is infinite or undefined."""
        names = [self.original, *self.comparisons]
        return _finite(
            {
                "original": self.original,
                "images": self.images,
                "machine": self.machine,
                "timing": None if self.benchmark is None else self.benchmark.table().title,
                "data": self._data_in_words(),
                "models": [self._model(name) for name in names],
                "layers": {name: self._layers(name) for name in self.comparisons},
                "plans": {name: plan.to_json() for name, plan in self.plans.items()},
                "spectra": {name: asdict(spectra) for name, spectra in self.spectra.items()},
                "methods": {
                    name: {"title": method.title, "formula": FORMULAS.get(name, "")}
                    for name, method in METHODS.items()
                },
            }
        )

    def _data_in_words(self) -> str | None:
        if self.evaluation is None:
            return None
        return f"Accuracy on {self.evaluation.num_pictures:,} images of {self.evaluation.num_classes:,} classes"

    def _model(self, name: str) -> dict[str, Any]:
        """Costs, times and quality of one model."""
        compared = self.comparisons.get(name)
        first = next(iter(self.comparisons.values()))
        accuracy = None if self.evaluation is None else self.evaluation.accuracies[name]
        return {
            "name": name,
            "macs": first.macs.before if compared is None else compared.macs.after,
            "params": first.params.before if compared is None else compared.params.after,
            "latencies": [
                {
                    "engine": latency.engine,
                    "batch": latency.batch_size,
                    "ms": latency.latency_ms,
                    "spread": latency.spread_ms,
                }
                for latency in (self.benchmark.latencies if self.benchmark else ())
                if latency.name == name and not latency.layer
            ],
            "accuracy": None if accuracy is None else _accuracy(accuracy),
            "fidelity": None if compared is None else _fidelity(compared),
        }

    def _layers(self, name: str) -> list[dict[str, Any]]:
        """The layers of a compressed model, in the model's order."""
        notes = self.plans[name].notes
        return [
            _layer(layer, self.spectra[layer.name], notes.get(layer.name))
            for layer in self.comparisons[name].layers
        ]


def make_report(
    models: Mapping[str, nn.Module],
    images: Batches,
    *,
    example: Tensor,
    images_in_words: str,
    benchmark: Benchmark | None = None,
    evaluation: Evaluation | None = None,
) -> Report:
    """Measure compressed models beside their original.

    Args:
        models: the original first, then those made from it; left as they are.
        images: inputs to compare outputs on, ``(batch, ...)`` or an iterable of such.
        example: one input with a batch axis; MACs are counted for its size.
        images_in_words: what the images are, for readers: «64 images of photos/».
        benchmark: times of the same models under the same names.
        evaluation: accuracies of the same models under the same names.

    Raises:
        DecomposeError: a model was not made from the first, or there is none but the first.
    """
    (name, original), *others = models.items()
    if not others:
        raise DecomposeError("a report needs a compressed model beside the original")
    return Report(
        original=name,
        comparisons={name: compare(original, small, images) for name, small in others},
        plans={name: plan_of(small) for name, small in others},
        spectra=layer_spectra(original, example),
        images=images_in_words,
        benchmark=benchmark,
        evaluation=evaluation,
        machine=machine(torch.device(example.device)),
    )


def _layer(compared: LayerComparison, spectra: LayerSpectra, note: Note | None) -> dict[str, Any]:
    return {
        **asdict(compared),
        "shape": spectra.shape,
        "note": None if note is None else asdict(note),
    }


def _fidelity(compared: Comparison) -> dict[str, Any]:
    """Fidelity of a compressed model's outputs to the original's, with intervals."""
    low, high = compared.output_interval or (None, None)
    agreement = None
    if compared.agreement is not None:
        same = round(compared.agreement * compared.num_inputs)
        agreement = share(np.arange(compared.num_inputs) < same)._asdict()
    return {
        "num_images": compared.num_inputs,
        "output_error": {"value": compared.output_error, "low": low, "high": high},
        "agreement": agreement,
        "weight_error": compared.weight_error,
    }


def _accuracy(accuracy: Accuracy) -> dict[str, Any]:
    return {
        key: value._asdict() if isinstance(value, Estimate) else value
        for key, value in vars(accuracy).items()
    }


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not know by ``None``."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not isfinite(value) else value
