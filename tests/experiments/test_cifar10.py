"""CIFAR-10's models and data: sizes as published, and one loader for both layouts of the data."""

from __future__ import annotations

import json
import pickle
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from decompose import DecomposeError
from decompose.layers.costs import count_macs, count_params, trace_shapes
from experiments.budget.peer import executed_macs
from experiments.cifar10 import training_time
from experiments.cifar10.data import Images, load_images
from experiments.cifar10.networks import CifarResNet, load_model
from experiments.cifar10.peers import whitened_svd
from experiments.cifar10.study import Study, distillation
from experiments.cifar10.table import tables
from experiments.common.records import render


@pytest.mark.parametrize(("depth", "mmacs", "params"), [(20, 40.55, 0.27), (56, 125.49, 0.85)])
def test_networks_have_the_published_sizes(depth: int, mmacs: float, params: float) -> None:
    model = CifarResNet(depth).eval()
    x = torch.zeros(1, 3, 32, 32)
    macs = sum(count_macs(model, trace_shapes(model, x)).values())
    assert macs / 1e6 == pytest.approx(mmacs, abs=0.01)
    assert count_params(model) / 1e6 == pytest.approx(params, abs=0.01)
    assert model(x).shape == (1, 10)


def test_a_published_file_is_loaded_by_its_depth(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved = CifarResNet(8).eval()
    state = {f"module.{name}": value for name, value in saved.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "resnet8-12345678.th")
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(load_model(tmp_path, 8)(x), saved(x), rtol=0, atol=0)
    with pytest.raises(DecomposeError, match="0 files resnet20"):
        load_model(tmp_path, 20)
    with pytest.raises(DecomposeError, match="6 n"):
        CifarResNet(21)


def png_folder(folder: Path, pixels: np.ndarray, labels: list[int]) -> None:
    Image.fromarray(pixels.reshape(len(pixels), -1, 3)).save(folder / "test_batch.png")
    (folder / "test_lables.json").write_text(json.dumps(labels))


def torchvision_folder(
    folder: Path, pixels: np.ndarray, labels: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    inner = folder / CIFAR10.base_folder
    inner.mkdir()
    content = {"data": pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1), "labels": labels}
    for name, held in (("test_batch", content), ("batches.meta", {"label_names": ["a", "b"]})):
        (inner / name).write_bytes(pickle.dumps(held))
    sums = {
        path.name: md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in inner.iterdir()
    }
    monkeypatch.setattr(CIFAR10, "train_list", [])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    monkeypatch.setattr(CIFAR10, "meta", meta)


def test_both_layouts_give_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    labels = [1, 0, 9]
    for name in ("png", "torchvision"):
        (tmp_path / name).mkdir()
    png_folder(tmp_path / "png", pixels, labels)
    torchvision_folder(tmp_path / "torchvision", pixels, labels, monkeypatch)
    one, other = (load_images(tmp_path / name, train=False) for name in ("png", "torchvision"))
    assert torch.equal(one.pixels, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert torch.equal(one.pixels, other.pixels)
    assert one.labels.tolist() == other.labels.tolist() == labels


def test_a_dataset_prepares_images_as_the_tensors_are() -> None:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    images = Images(pixels, torch.tensor([3, 1, 2, 0]))
    (batch,) = images.dataset().batches(4)
    torch.testing.assert_close(batch.images, images.prepared())
    assert batch.labels.tolist() == [3, 1, 2, 0]


@pytest.fixture(scope="module")
def trained() -> CifarResNet:
    """A small model with random weights and BatchNorm statistics of random images."""
    torch.manual_seed(0)
    model = CifarResNet(8).train()
    model(torch.randn(16, 3, 32, 32))
    return model.eval()


def share_of(small: nn.Module, model: nn.Module) -> float:
    x = torch.zeros(1, 3, 32, 32)
    return executed_macs(small, x) / executed_macs(model, x)


@pytest.mark.filterwarnings("ignore:no epoch scores")  # of random labels it is chance
@pytest.mark.filterwarnings("ignore:left as truncated")
@pytest.mark.parametrize(
    ("way", "share", "finetuned"),
    [("finetuned", 0.7, "finetuned_0.7"), ("again", 0.4, "finetuned_0.5")],
)
def test_ways_that_finetune_make_the_checkpoints_folder_and_keep_the_budget(
    trained: CifarResNet, tmp_path: Path, way: str, share: float, finetuned: str
) -> None:
    pixels = torch.randint(0, 256, (320, 3, 32, 32), dtype=torch.uint8)
    images = Images(pixels, torch.randint(0, 10, (320,)))
    study = Study(trained, images, images.first(8), tmp_path / "hits.npy")
    recipe = distillation(0.1, epochs=1, learning_rate=0.05, batch_size=256)
    found = study.measure(way, share, recipe, tmp_path / "checkpoints")
    assert (tmp_path / "checkpoints" / finetuned).is_dir()
    assert found["macs"] <= share * study.macs


@pytest.mark.filterwarnings("ignore:no epoch scores")
@pytest.mark.filterwarnings("ignore:left as truncated")
def test_finetuning_resumes_where_the_decomposition_differs_in_bits(
    trained: CifarResNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = torch.randint(0, 256, (320, 3, 32, 32), dtype=torch.uint8)
    images = Images(pixels, torch.randint(0, 10, (320,)))
    study = Study(trained, images, images.first(8), tmp_path / "hits.npy")
    recipe = distillation(0.1, epochs=1, learning_rate=0.05, batch_size=256)
    first = study.measure("finetuned", 0.7, recipe, tmp_path / "checkpoints")
    # It is not decomposed again.
    monkeypatch.setattr(Study, "_decomposed", None)
    assert study.measure("finetuned", 0.7, recipe, tmp_path / "checkpoints") == first
    assert (tmp_path / "checkpoints" / "finetuned_0.7.safetensors").is_file()


def test_a_seed_draws_other_images_the_same_ones_each_time(
    trained: CifarResNet, tmp_path: Path
) -> None:
    pixels = torch.randint(0, 256, (320, 3, 32, 32), dtype=torch.uint8)
    images = Images(pixels, torch.randint(0, 10, (320,)))
    first, again, other = (
        Study(trained, images, images.first(8), tmp_path / "hits.npy", seed).calibration(16)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_whitened_svd_keeps_to_its_budget_and_loses_less_with_more(trained: CifarResNet) -> None:
    x = torch.randn(12, 3, 32, 32)
    lost = []
    for share in (0.4, 0.7, 1.0):
        small = whitened_svd(trained, x, share)
        assert share - 0.06 < share_of(small, trained) <= share
        lost.append(float((small(x) - trained(x)).detach().square().sum()))
    assert lost[0] > lost[1] > lost[2] == 0


def test_whitened_svd_is_the_best_of_its_rank_on_what_the_layer_sees() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, 3, padding=1)
    mixing = torch.randn(6, 6).tril()
    x = torch.einsum("oc,nchw->nohw", mixing, torch.randn(8, 6, 9, 9))
    small = whitened_svd(nn.Sequential(conv), x, 0.5)
    reading = next(m for m in small.modules() if isinstance(m, nn.Conv2d))
    assert conv.bias is not None
    centred = (conv(x) - conv.bias.view(-1, 1, 1)).detach().transpose(0, 1).flatten(1).double()
    least = torch.linalg.svdvals(centred)[reading.out_channels :].square().sum()
    error = (small(x) - conv(x)).detach().double().square().sum()
    torch.testing.assert_close(error, least, rtol=1e-3, atol=0)


def test_tables_follow_from_records() -> None:
    point = {
        "macs": 20,
        "accuracy": {"value": 0.9, "low": 0.89, "high": 0.91},
        "change": {"value": -0.015, "low": -0.02, "high": -0.01},
        "seconds": 3.0,
    }
    original = {"macs": 40, "accuracy": {"value": 0.915}, "num_test": 10_000}
    ways = {"free": {"0.75": point, "0.5": point}, "svd64": {"0.5": point}}
    text = render(tables({"networks": {"resnet20": {"original": original, "ways": ways}}}))
    assert "ResNet-20, 91.50 %" in text
    assert "-1.50 (-2.00 to -1.00)" in text
    assert "10,000 test images" in text


def test_steps_of_training_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": CifarResNet(8).state_dict()}, tmp_path / "resnet8-12345678.th")
    training_time.main(tmp_path, depth=8, share=0.5, batch_size=2, rounds=1)
    shown = capsys.readouterr().out
    assert "A step of distilling ResNet-8 at 50%" in shown
    for name in ("by factors, float32", "composed, bfloat16"):
        assert name in shown
