"""The kinds of files that are read: how a whole one is written, and how any is read."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image
from torch import nn

import decompose
from decompose import Choice, DecomposeError, Plan
from decompose.compression.search.scoring import measure
from decompose.compression.statistics import Statistics
from decompose.data.decoding import read_image
from decompose.data.voc_annotations import read_objects
from decompose.data.webdataset import labelled_shards
from decompose.evaluation.predictions import Predictions
from decompose.evaluation.records import figures_of, read_record
from decompose.inference.engines import Eager
from decompose.inference.latency import Latencies, LayerVariant, Target
from decompose.layers.modules import to_conv
from decompose.models.export import to_onnx_bytes
from decompose.utils.hashing import weights_digest
from decompose.utils.state_files import read_state, write_state
from tests.data.cases import to_tensor
from tests.data.voc_cases import FOLDER
from tests.endurance.mutators import BYTES, HEADER, JSON, SAFETENSORS, Mutator

EXAMPLE = torch.linspace(-1, 1, 3 * 8 * 8).view(1, 3, 8, 8)


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: in tables.
        file: its name in a folder.
        write: writes a whole one to a path, and what belongs to it beside.
        read: reads one, and uses what it holds; raises ``DecomposeError`` where it is none.
        mutators: its own.
        of_bytes: whether its bytes are damaged as well.
    """

    name: str
    file: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    mutators: tuple[Mutator, ...] = ()
    of_bytes: bool = True

    @property
    def all_mutators(self) -> tuple[Mutator, ...]:
        """Those of bytes, and its own."""
        return (BYTES if self.of_bytes else ()) + self.mutators


def model() -> nn.Module:
    """A small convolutional network."""
    torch.manual_seed(0)
    convs = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3)
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).eval()


def small() -> nn.Module:
    """The network with a layer rewritten."""
    return decompose.apply(Plan({"2": Choice("spatial", 2, (Choice("pw_dw", 1), None))}), model())


def _read_saved(path: Path) -> None:
    """Load a saved model, whose digest says whether its weights are those that were saved."""
    torch.testing.assert_close(decompose.load(path, model())(EXAMPLE), small()(EXAMPLE))


def _named() -> nn.Module:
    """A model whose file names its architecture."""
    torch.manual_seed(0)
    named = decompose.load("torchvision:squeezenet1_1,weights=none,num_classes=3")
    return decompose.apply(Plan({"features.3.expand3x3": Choice("tucker", 2)}), named)


def _read_named(path: Path) -> None:
    loaded = decompose.load(path)
    assert {name: type(module) for name, module in loaded.named_modules()} == {
        name: type(module) for name, module in _named().named_modules()
    }


def _read_checkpoint(path: Path) -> None:
    """Load a checkpoint, which has no digest: what it holds may be other numbers."""
    assert decompose.load(path, model())(EXAMPLE).shape == (1, 4)


@cache
def _onnx() -> bytes:
    """An ONNX model; torch's exporter takes seconds."""
    return to_onnx_bytes(model(), EXAMPLE)


def _write_external(path: Path) -> None:
    """An ONNX model whose weights are in a file beside it."""
    proto = onnx.ModelProto.FromString(_onnx())
    graph = path.with_name("external.onnx")
    onnx.save(proto, graph, save_as_external_data=True, location="weights", size_threshold=0)


def _read_onnx(path: Path) -> None:
    decompose.load(path)(EXAMPLE)


def _write_statistics(path: Path) -> None:
    images = torch.randn(3, 3, 8, 8)
    measure(model(), EXAMPLE, images, methods=["svd", "spatial"]).save(path)


def _read_statistics(path: Path) -> None:
    found = Statistics.load(path)
    decompose.plan(model(), EXAMPLE, macs=0.7, methods=["svd", "spatial"], calibrate=found)


def _write_shard(path: Path) -> None:
    image = io.BytesIO()
    Image.new("RGB", (9, 7), (3, 2, 1)).save(image, "PNG")
    with tarfile.open(path, "w") as tar:
        for name, content in (
            ("0.png", image.getvalue()),
            ("0.cls", b"1"),
            ("1.png", image.getvalue()),
            ("1.json", b'{"label": 0}'),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _read_shard(path: Path) -> None:
    for batch in labelled_shards(str(path), to_tensor).batches(4):
        assert batch.labels.min() >= 0


def _image(kind: str, mode: str = "RGB") -> Callable[[Path], object]:
    values = np.random.default_rng(0).integers(0, 255, (12, 10, 3), np.uint8)
    return lambda path: Image.fromarray(values).convert(mode).save(path, kind)


def _read_image(path: Path) -> None:
    to_tensor(read_image(path))


def _latencies(path: Path) -> list[float]:
    place = Target(Eager(), 1, torch.device("cpu"))
    folder = path.parent / "latencies"
    made = Latencies(place, folder)
    if path.exists():
        folder.mkdir(exist_ok=True)
        shutil.copy(path, made._path)
        made = Latencies(place, folder)
    conv = to_conv(nn.Conv2d(2, 2, 3)).without_weights()
    found = made.measure(conv, [LayerVariant(None)], (1, 2, 5, 5))
    if not path.exists():
        shutil.move(made._path, path)
    return found


def _read_latencies(path: Path) -> None:
    assert all(0 < ms < float("inf") for ms in _latencies(path))


def _write_record(path: Path) -> None:
    network = model()
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6}
    accuracy = {"top1": estimate, "top5": None, "top1_change": estimate, "top5_change": None}
    record = {
        "accuracies": {"a": accuracy | {"agreement": 1.0}},
        "num_pictures": 10,
        "num_classes": 4,
        "unreadable": {},
        "throughput": None,
        "provenance": {"weights": {"a": weights_digest(network)}, "data": {"name": "x"}},
    }
    path.write_text(json.dumps(record))


def _read_record(path: Path) -> None:
    figures_of(model(), read_record(path))


def _read_predictions(path: Path) -> None:
    found = Predictions.load(path, "key")
    if found is None:
        raise DecomposeError("measured again")
    assert torch.equal(found.labels, _PREDICTIONS.labels)
    assert torch.equal(found.guesses, _PREDICTIONS.guesses)


def _read_state(path: Path) -> None:
    found = read_state(path)
    assert found["step"] == _STATE["step"]
    assert found["history"] == _STATE["history"]
    assert torch.equal(found["weights"]["a"], _STATE["weights"]["a"])


_PREDICTIONS = Predictions(torch.arange(6), torch.arange(6) % 3, torch.arange(12).view(1, 6, 2) % 3)

_STATE: dict[str, Any] = {
    "step": 3,
    "weights": {"a": torch.arange(20.0)},
    "history": [{"loss": 0.5}],
}

KINDS = (
    Kind(
        "saved model",
        "a.safetensors",
        lambda p: decompose.save(small(), p),
        _read_saved,
        SAFETENSORS,
    ),
    Kind(
        "header of a saved model with an architecture",
        "named.safetensors",
        lambda p: decompose.save(_named(), p),
        _read_named,
        HEADER,
        of_bytes=False,
    ),
    Kind(
        "plan",
        "plan.json",
        lambda p: Plan({"2": Choice("spatial", 2)}).save(p),
        lambda p: decompose.apply(Plan.load(p), model()),
        JSON,
    ),
    Kind("statistics", "s.safetensors", _write_statistics, _read_statistics, SAFETENSORS),
    Kind(
        "training checkpoint",
        "step.safetensors",
        lambda p: write_state(p, _STATE),
        _read_state,
        SAFETENSORS,
    ),
    Kind(
        "partial evaluation",
        "outcomes",
        lambda p: _PREDICTIONS.save(p, "key"),
        _read_predictions,
        SAFETENSORS,
    ),
    Kind(
        "PyTorch checkpoint",
        "a.pth",
        lambda p: torch.save({"state_dict": model().state_dict()}, p),
        _read_checkpoint,
    ),
    Kind("ONNX model", "a.onnx", lambda p: p.write_bytes(_onnx()), _read_onnx),
    Kind("ONNX model of external data", "external.onnx", _write_external, _read_onnx),
    Kind(
        "ONNX external data",
        "weights",
        _write_external,
        lambda p: _read_onnx(p.with_name("external.onnx")),
    ),
    Kind("tar shard", "a.tar", _write_shard, _read_shard),
    Kind(
        "VOC annotation",
        "a.xml",
        lambda p: shutil.copy(FOLDER / "Annotations" / "coffee.xml", p),
        read_objects,
    ),
    Kind("PNG", "a.png", _image("PNG"), _read_image),
    Kind("JPEG", "a.jpg", _image("JPEG"), _read_image),
    Kind("TIFF", "a.tif", _image("TIFF"), _read_image),
    Kind("WebP", "a.webp", _image("WEBP"), _read_image),
    Kind("latency cache", "l.json", _latencies, _read_latencies, JSON),
    Kind("evaluation record", "r.json", _write_record, _read_record, JSON),
)
"""In the order of the table."""
