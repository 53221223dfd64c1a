"""Measure the mean average precision of several detectors in one pass over images.

As ``accuracy`` does for classifiers, each image is decoded once for all models, and the processes
that ``torchrun`` or ``accelerate launch`` started share the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decompose.data.voc import DetectionBatch, DetectionDataset
from decompose.data.voc_annotations import VOC_CLASSES, label_of
from decompose.evaluation.average_precision import Boxes, DetectionScores, average_precision
from decompose.evaluation.provenance import Provenance
from decompose.evaluation.runner import Runner
from decompose.evaluation.throughput import Throughput
from decompose.models.architectures import Architecture
from decompose.models.preprocessing import Transform
from decompose.utils.errors import DecomposeError, none_read
from decompose.utils.progress import track
from decompose.utils.tables import Table


@dataclass(frozen=True)
class DetectionEvaluation:
    """The precision of detectors on the same images.

    Attributes:
        precisions: by model; the others are compared with the first.
        num_pictures: images read.
        num_objects: in them, without the difficult ones.
        classes: of these objects.
        unreadable: images and annotations that could not be read, by path, with the reason; they
            count nowhere.
        throughput: of this run.
        provenance: what was evaluated on what.
    """

    precisions: Mapping[str, DetectionScores]
    num_pictures: int
    num_objects: int
    classes: Sequence[str]
    unreadable: Mapping[str, str]
    throughput: Throughput | None
    provenance: Provenance

    def to_dict(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return asdict(self)

    def table(self) -> Table:
        """A row a model: its precisions, and their difference from the first's."""
        first = next(iter(self.precisions.values()))
        rows = []
        for name, own in self.precisions.items():
            cells = []
            for key in ("map_50", "map", "map_voc2007"):
                value, change = getattr(own, key), getattr(own, key) - getattr(first, key)
                cells += [f"{100 * value:.2f}", "" if own is first else f"{100 * change:+.2f}"]
            rows.append((name, *cells))
        return Table(
            f"Mean average precision on {self.num_pictures:,} images with {self.num_objects:,} "
            f"objects of {len(self.classes):,} classes; difficult ones do not count",
            [
                "model",
                *("IoU 0.5\nCOCO %", "change"),
                *("IoU 0.5:0.95\nCOCO %", "change"),
                *("IoU 0.5\nVOC 2007 %", "change"),
            ],
            rows,
        )


def evaluate_detectors(
    models: Mapping[str, nn.Module],
    scenes: DetectionDataset,
    categories: Mapping[str, Sequence[str]],
    *,
    transforms: Mapping[str, Transform] | None = None,
    batch_size: int = 1,
    workers: int = 0,
    device: torch.device | str = "cpu",
    precision: torch.dtype | None = None,
) -> DetectionEvaluation:
    """Measure the mean average precision of detectors, in one pass over the images.

    Args:
        models: by name, as torchvision's: a list of ``(3, H, W)`` to a list of dicts of boxes,
            labels and scores. They are moved to ``device``.
        scenes: images and their objects.
        categories: of each model, its classes' names by label.
        transforms: the preprocessing of models that want another than the images come in.
        batch_size: images at a time.
        workers: processes that decode.
        device: where the models run; of several GPUs each process takes one.
        precision: of the models' products, by automatic mixed precision; their own by default.

    Raises:
        DecomposeError: a model gives no boxes, there is a class that a model does not know, no
            image could be read, none shows an object, or pycocotools is not installed.
    """
    runner = Runner.of(models, scenes, transforms, device, precision)
    classes = scenes.classes()
    reader = _BoxReader({name: _class_of_label(name, categories[name], classes) for name in models})
    found: dict[int, list[Boxes]] = {}
    unreadable: dict[str, str] = {}
    for batch in runner.batches(batch_size, workers, range(len(scenes)), "detecting"):
        found |= reader.read(batch, runner)
        unreadable |= batch.unreadable
    gathered = runner.processes.gather((found, unreadable, runner.clock.read()))
    found = {index: boxes for part, _, _ in gathered for index, boxes in part.items()}
    unreadable = {path: why for _, part, _ in gathered for path, why in part.items()}
    throughputs = [throughput for _, _, throughput in gathered if throughput is not None]
    return _summary(
        list(models),
        {index: found[index] for index in sorted(found)},
        scenes,
        {**scenes.damaged, **unreadable},
        Throughput.together(throughputs) if throughputs else None,
        runner.provenance,
    )


def categories_of(architecture: Architecture) -> Sequence[str]:
    """The names of a detector's classes, by label.

    They are those of its weights; 21 classes are VOC's in their order, behind a background.

    Raises:
        DecomposeError: they are not known.
    """
    known = architecture.categories()
    count = architecture.options.get("num_classes", len(known))
    if count == len(VOC_CLASSES) + 1:
        return ["__background__", *VOC_CLASSES]
    if not known or count != len(known):
        raise DecomposeError(f"{architecture}: the names of its classes are not known")
    return known


def _summary(
    names: Sequence[str],
    found: Mapping[int, Sequence[Boxes]],
    scenes: DetectionDataset,
    unreadable: Mapping[str, str],
    throughput: Throughput | None,
    provenance: Provenance,
) -> DetectionEvaluation:
    """Average the precision over the results of all processes."""
    if not found:
        raise none_read(unreadable)
    classes = scenes.classes()
    objects = [scenes.objects(index) for index in found]
    there = [
        Boxes(
            shown.boxes,
            torch.tensor([classes.index(name) for name in shown.names], dtype=torch.int64),
            torch.ones(len(shown.names)),
        )
        for shown in objects
    ]
    difficult = [shown.difficult for shown in objects]
    num_objects = sum(int((~hard).sum()) for hard in difficult)
    if not num_objects:
        raise DecomposeError("the images show no object, but for difficult ones")
    precisions = {
        name: average_precision(
            [boxes[index] for boxes in found.values()], there, difficult, classes
        )
        for index, name in enumerate(track(names, "averaging precision"))
    }
    present = list(next(iter(precisions.values())).ap_50)
    return DetectionEvaluation(
        precisions, len(found), num_objects, present, unreadable, throughput, provenance
    )


def _class_of_label(model: str, categories: Sequence[str], classes: Sequence[str]) -> Tensor:
    """The data's class for each label of a model, -1 where there is none, ``(labels,)``."""
    mapped = torch.full((len(categories),), -1)
    for index, name in enumerate(classes):
        label = label_of(name, categories)
        if label is None:
            raise DecomposeError(
                f"{model}: does not know the class {name!r} of the annotations; it has "
                f"{len(categories)}, such as {categories[len(categories) // 2]!r}"
            )
        mapped[label] = index
    return mapped


@dataclass(frozen=True)
class _BoxReader:
    """Checks detectors' outputs and keeps the boxes of the data's classes.

    Attributes:
        labels: the data's class for each label of a model, by the model's name.
    """

    labels: Mapping[str, Tensor]

    def read(
        self, batch: DetectionBatch, runner: Runner[DetectionDataset]
    ) -> dict[int, list[Boxes]]:
        """Run the models on a batch; the boxes of each model, by the image's index."""
        if not batch.indices:
            return {}
        by_model = [
            self._boxes(name, output, len(batch.indices))
            for name, output in runner.outputs(batch).items()
        ]
        return dict(zip(batch.indices, map(list, zip(*by_model, strict=True)), strict=True))

    def _boxes(self, name: str, given: Any, num_images: int) -> list[Boxes]:
        """The boxes of the data's classes in each image."""
        if not isinstance(given, list) or len(given) != num_images:
            raise DecomposeError(
                f"{name}: gives a {type(given).__name__}, not a list with the boxes of each image"
            )
        return [self._read(name, item) for item in given]

    def _read(self, name: str, item: Any) -> Boxes:
        try:
            corners, labels, scores = (item[key].cpu() for key in ("boxes", "labels", "scores"))
            classes = self.labels[name][labels]
            boxes = Boxes(corners.float().reshape(len(labels), 4), classes, scores.float())
        except (TypeError, KeyError, IndexError, AttributeError, RuntimeError):
            raise DecomposeError(
                f"{name}: gives no boxes, labels below {len(self.labels[name])} and scores"
            ) from None
        if not torch.isfinite(boxes.corners).all() or not torch.isfinite(boxes.scores).all():
            raise DecomposeError(f"{name}: gives boxes that are not finite (NaN or Inf)")
        return boxes.where(classes >= 0)
