"""The real weights of VGG16."""

from pathlib import Path

import pytest
import torch
from torch import nn

from decompose.models import vgg16 as module
from decompose.models.vgg16 import vgg16_features, vgg16_features_state
from decompose.utils.errors import DecomposeError


def test_they_are_the_published_ones(vgg16: nn.Module) -> None:
    # In Caffe's order, conv1_1 takes BGR: its first input channel is our last.
    assert float(vgg16.get_parameter("conv1_1.weight")[0, 2, 0, 0].detach()) == pytest.approx(
        0.42947057, abs=1e-8
    )
    biases = vgg16.get_parameter("conv1_1.bias").detach()
    assert biases[:2].tolist() == pytest.approx([0.73429835, 0.09340367], abs=1e-8)
    assert float(vgg16.get_parameter("conv5_3.bias")[0].detach()) == pytest.approx(0.18837857)


def test_the_network_halves_its_input_five_times() -> None:
    assert vgg16_features()(torch.zeros(1, 3, 64, 32)).shape == (1, 512, 2, 1)


def test_a_file_that_is_not_the_known_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(b"something else")

    class Distribution:
        def locate_file(self, _: str) -> Path:
            return path

    monkeypatch.setattr(module.metadata, "distribution", lambda _: Distribution())
    with pytest.raises(DecomposeError, match=r"other\.onnx: .*SHA-256"):
        vgg16_features_state()


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACKAGE", "no-such-package-here")
    with pytest.raises(DecomposeError, match=r"no-such-package-here: pip install"):
        vgg16_features_state()
