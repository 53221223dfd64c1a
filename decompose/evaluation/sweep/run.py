"""Compress a model to many budgets, resumably, in one process or several.

The folder of a sweep holds, for each point, its model and a record, written when the model is whole; a
point with a record is not made again. Each record bears a digest of all that it depends on (the original's
weights, the inputs, the options), so that records of another sweep are refused rather than mixed in.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decompose.compression.application import apply
from decompose.compression.effort import DEFAULT_EFFORT, effort_of
from decompose.compression.search.planning import plan
from decompose.compression.search.scoring import measure
from decompose.compression.statistics import Statistics
from decompose.data.matched_inputs import matched_inputs
from decompose.data.synthetic import num_to_repair_on
from decompose.evaluation.sweep.points import SweepPoint
from decompose.evaluation.sweep.scores import Score
from decompose.inference.engines import default_engine, get_engine
from decompose.inference.latency import Target, time_models
from decompose.layers.costs import count_macs, count_params, trace_shapes
from decompose.models import serialization
from decompose.models.onnx.module import OnnxModule
from decompose.utils.batches import device_of
from decompose.utils.errors import BudgetError, DecomposeError
from decompose.utils.files import parse_json, write_text
from decompose.utils.hashing import content_digest, weights_digest

ORIGINAL = "original"


@dataclass(frozen=True, eq=False)
class Sweep:
    """A model and the settings that all points of a sweep share.

    Attributes:
        model: the original; left as it was.
        example: one batch, as ``plan`` takes it; latencies are those of all of it.
        folder: for models, records and statistics.
        score: of the models.
        images: unlabelled inputs in batches, to plan and repair on; ``None`` if no point takes images.
        skip: layers to leave, as for ``plan``.
        engine: whose time is measured, and which a latency is a budget of.
        threads: of the engine; torch's own number by default.
        effort: of planning and repair.
    """

    model: nn.Module
    example: Tensor
    folder: Path
    score: Score
    images: Sequence[Tensor] | None = None
    skip: Sequence[str] = ()
    engine: str | None = None
    threads: int | None = None
    effort: str = DEFAULT_EFFORT
    _inputs_digest: dict[bool, str] = field(default_factory=dict, init=False)

    def run(self, points: Sequence[SweepPoint]) -> Iterator[dict[str, Any]]:
        """Measure the original, and make the points that are not made yet, one after another.

        Args:
            points: that this process makes.

        Yields:
            Each record, new or not, the original's first.

        Raises:
            DecomposeError: the folder holds records of another sweep, or images are missing.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        yield self._recorded(ORIGINAL, self._digest(None), self._measured_original)
        for point in points:
            yield self._recorded(point.name, self._digest(point), lambda p=point: self._made(p))

    def gather_statistics(self, points: Sequence[SweepPoint]) -> None:
        """Gather the statistics that points need, where there are none in the folder yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for point in points:
            if not self._record_path(point.name).exists():
                self._statistics(point)

    def model_path(self, name: str) -> Path:
        """The file of a point's model."""
        suffix = ".onnx" if isinstance(self.model, OnnxModule) else ".safetensors"
        return self.folder / f"{name}{suffix}"

    def _record_path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _recorded(self, name: str, digest: str, make: Any) -> dict[str, Any]:
        """The record of a name; made where there is none."""
        path = self._record_path(name)
        if not path.exists():
            write_text(path, json.dumps({**make(), "digest": digest}, indent=1) + "\n")
        record = read_record(path)
        if record.get("digest") != digest:
            raise DecomposeError(
                f"{path}: is of another model, other images or other options; give another folder"
            )
        return record

    def _digest(self, point: SweepPoint | None) -> str:
        on_images = point is not None and point.on_images
        settings = {
            "point": None if point is None else asdict(point),
            "weights": weights_digest(self.model),
            "inputs": self._digest_of_inputs(on_images=on_images),
            "example": list(self.example.shape),
            "score": self.score.title,
            "options": [list(self.skip), self.engine, self.threads, self.effort],
        }
        return content_digest(json.dumps(settings, sort_keys=True), {})

    def _digest_of_inputs(self, *, on_images: bool) -> str:
        if on_images not in self._inputs_digest:
            images = self._required_images() if on_images else []
            tensors = {str(index): batch for index, batch in enumerate(images)}
            self._inputs_digest[on_images] = content_digest("", tensors)
        return self._inputs_digest[on_images]

    def _required_images(self) -> Sequence[Tensor]:
        if self.images is None:
            raise DecomposeError("a point of the sweep is on images, and there are none")
        return self.images

    def _inputs(self, point: SweepPoint) -> Sequence[Tensor] | Tensor:
        if point.on_images:
            return self._required_images()
        return self._matched_inputs

    @cached_property
    def _matched_inputs(self) -> Sequence[Tensor] | Tensor:
        num, steps = num_to_repair_on(self.example), effort_of(self.effort).num_matching
        return matched_inputs(self.example, self.model, num=num, steps=steps)

    def _statistics(self, point: SweepPoint) -> Statistics:
        """Of the model on the point's inputs, gathered once for all points of its family."""
        key = [
            point.family,
            weights_digest(self.model),
            self._digest_of_inputs(on_images=point.on_images),
            list(self.example.shape),
            list(self.skip),
            self.effort,
        ]
        digest = content_digest(json.dumps(key), {})
        path = self.folder / f"statistics-{digest[:12]}.safetensors"
        if not path.exists():
            options = self._options(point)
            inputs = self._inputs(point)
            measure(self.model, self.example, inputs, **options).save(path)
        return Statistics.load(path)

    def _options(self, point: SweepPoint) -> dict[str, Any]:
        return {"methods": point.methods or None, "skip": self.skip, "effort": self.effort}

    def _measured_original(self) -> dict[str, Any]:
        return {
            "name": ORIGINAL,
            "macs": self._macs(self.model),
            "params": count_params(self.model),
            "score": {"value": self.score.of_original()},
            "title": self.score.title,
            "is_error": self.score.is_error,
        }

    def _made(self, point: SweepPoint) -> dict[str, Any]:
        """Make a point's model, and measure it."""
        started = time.perf_counter()
        record = {"name": point.name, "family": point.family, **asdict(point)}
        options = self._options(point)
        if point.budget == "latency":
            options |= {"engine": self.engine, "threads": self.threads}
        budget = {point.budget: point.share}
        try:
            chosen = plan(
                self.model, self.example, calibrate=self._statistics(point), **budget, **options
            )
        except BudgetError as error:
            return {**record, "failed": str(error)}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="left as truncated")
            small = apply(chosen, self.model, calibrate=self._inputs(point), effort=self.effort)
        seconds = time.perf_counter() - started
        serialization.save(small, self.model_path(point.name))
        timed = time_models({ORIGINAL: self.model, "small": small}, self.example, self._target())
        return {
            **record,
            "file": self.model_path(point.name).name,
            "macs": self._macs(small),
            "params": count_params(small),
            "time": timed["small"] / timed[ORIGINAL],
            "ms": timed["small"],
            "place": str(self._target()),
            "score": dict(self.score.of(small)),
            "seconds": seconds,
        }

    def _macs(self, model: nn.Module) -> int:
        return sum(count_macs(model, trace_shapes(model, self.example)).values())

    def _target(self) -> Target:
        device = device_of(self.example)
        engine = get_engine(self.engine or default_engine(device))
        return Target(engine, self.threads or torch.get_num_threads(), device)


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of a point.

    Raises:
        DecomposeError: it is damaged.
    """
    record = parse_json(path.read_text(encoding="utf-8", errors="replace"), str(path))
    needed = {"name", "digest"}
    if not isinstance(record, Mapping) or not needed <= record.keys():
        raise DecomposeError(f"{path}: is no record of a sweep; delete it")
    return dict(record)
