"""``decompose compress``, as its users meet it."""

from pathlib import Path
from typing import Any

import pytest
import torch

import decompose
from decompose.compression.checkpoints import CompressionCheckpoints
from decompose.layers.batchnorm import folded_of
from decompose.layers.discovery import find_decomposed
from decompose.models.architectures import OFFLINE_VGG16
from tests.cli.cases import ARCH, Captured, run


def test_compress_writes_the_network_its_plan_and_a_table(
    folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    files = [tmp_path / name for name in ("a.safetensors", "plan.json", "table.md")]
    arguments = ["--arch", ARCH, "--rank", "2", "--rank", "layer4.*=5", "--skip", "conv1"]
    outputs = ["-o", files[0], "--save-plan", files[1], "--table", files[2]]
    assert run("compress", folder / "resnet18.pth", *arguments, *outputs) == 0
    printed = capsys.readouterr().out
    assert "Left dense, skipped by name: conv1" in printed
    assert all(str(path) in printed for path in files)
    plan = decompose.Plan.load(files[1])
    assert plan.layers["layer4.1.conv2"].rank == 5
    assert plan.layers["layer1.0.conv1"].rank == 2
    assert "| layer4.1.conv2 " in files[2].read_text()
    again = tmp_path / "again.safetensors"
    command = ["compress", folder / "resnet18.pth", "--arch", ARCH, "--plan", files[1]]
    assert run(*command, "-o", again) == 0
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(decompose.load(again)(x), decompose.load(files[0])(x))


def test_a_decomposed_model_is_a_source(small: Path, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "smaller.safetensors"
    assert run("compress", small, "--rank", "layer1.*=2", "-o", path) == 0
    assert "layer1.0.conv1" in capsys.readouterr().out
    smaller, before = (find_decomposed(decompose.load(p)) for p in (path, small))
    ranks = {name: layer.choice.rank for name, layer in smaller.items()}
    assert ranks == {n: 2 if "layer1." in n else layer.choice.rank for n, layer in before.items()}


def test_compress_in_multiples(tmp_path: Path, capsys: Captured) -> None:
    path, plan = tmp_path / "a.safetensors", tmp_path / "plan.json"
    asked = ["--method", "spatial", "--ratio", 2, "--multiple", 16, "--input-size", 32]
    command = ["compress", "timm:test_resnet,weights=none", *asked, "--save-plan", plan]
    assert run(*command, "-o", path) == 0
    ranks = [choice.rank for choice in decompose.Plan.load(plan).layers.values()]
    assert ranks
    assert all(rank % 16 == 0 for rank in ranks)
    capsys.readouterr()
    assert run("compress", ARCH, "--rank", 2, "--multiple", 8, "-o", path) == 2
    assert "multiple 8 is without effect" in capsys.readouterr().err


def test_compress_by_energy(tmp_path: Path, capsys: Captured) -> None:
    command = ["compress", ARCH, "--method", "dw_pw", "--energy", "0.5", "--skip", "conv1"]
    assert run(*command, "-o", tmp_path / "a.safetensors") == 0
    assert "dw_pw" in capsys.readouterr().out


def test_compress_folds_batchnorm_of_a_timm_network(tmp_path: Path) -> None:
    source, path = "timm:test_resnet,weights=none", tmp_path / "small.safetensors"
    asked = "--rank", "2", "--input-size", "32", "--fold-batchnorm", "-o", path
    assert run("compress", source, *asked) == 0
    folded = folded_of(decompose.load(path))
    assert folded["conv1.0"] == "conv1.1"
    # The original is random, and another one each time.
    assert run("compare", source, path, "--input-size", "32") == 0


def test_compressing_nothing_warns(tmp_path: Path, capsys: Captured) -> None:
    assert run("compress", ARCH, "--energy", "1", "-o", tmp_path / "a.safetensors") == 0
    assert "warning: nothing was decomposed" in capsys.readouterr().err


def test_the_offline_weights_are_a_source(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "vgg16.safetensors"
    assert run("compress", OFFLINE_VGG16, "--rank", "4", "--skip", "conv1_1", "-o", path) == 0
    assert "2.12" in capsys.readouterr().out
    assert run("inspect", path) == 0


def test_a_budget_is_planned_and_repaired_on_images(
    folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    kept, plan, small = (tmp_path / name for name in ("s.safetensors", "p.json", "a.safetensors"))
    skipped = [word for name in ("layer1", "layer3", "layer4") for word in ("--skip", name)]
    command = ["compress", folder / "resnet18.pth", "--arch", ARCH, *skipped]
    command += ["--methods", "dw_pw,spatial", "--input-size", "64"]
    calibrated = ["--macs", "0.9", "--calibrate", folder / "val", "--save-statistics", kept]
    assert run(*command, *calibrated, "--save-plan", plan, "-o", small) == 0
    printed = capsys.readouterr().out
    assert "Repair; error of each layer's output" in printed
    assert "weight" not in printed
    assert all(str(path) in printed for path in (kept, plan, small))
    notes = decompose.Plan.load(plan).notes
    assert notes
    assert all(note.unit == "MACs" for note in notes.values())
    assert run("inspect", small, "--input-size", "64") == 0
    assert "runner-up" in capsys.readouterr().out
    again = [
        "--macs",
        "0.85",
        "--statistics",
        kept,
        "--no-repair",
        "-o",
        tmp_path / "b.safetensors",
    ]
    assert run(*command, *again) == 0
    assert "Repair" not in capsys.readouterr().out


def test_small_inputs_are_planned_for_the_repair_that_follows(tmp_path: Path) -> None:
    source, plan, small = (
        "timm:test_resnet,weights=none",
        tmp_path / "p.json",
        tmp_path / "a.safetensors",
    )
    torch.manual_seed(0)
    asked = ["--macs", "0.6", "--methods", "spatial", "--input-size", "32", "--save-plan", plan]
    assert run("compress", source, *asked, "-o", small) == 0
    torch.manual_seed(0)
    model = decompose.load(source)
    zeros = torch.zeros(1, 3, 32, 32)
    inputs = decompose.synthetic_inputs(zeros, model, num=64)
    expected = decompose.plan(model, zeros, macs=0.6, methods=["spatial"], calibrate=inputs)
    assert decompose.Plan.load(plan).layers == expected.layers


def test_an_effort_is_checked_before_the_work(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "a.safetensors"
    assert run("compress", ARCH, "--macs", "0.5", "--effort", "huge", "-o", path) == 2
    assert "effort 'huge': choose of quick, normal, thorough" in capsys.readouterr().err
    assert run("compress", ARCH, "--rank", "2", "--effort", "quick", "-o", path) == 2
    assert "--effort is for a budget and for a repair" in capsys.readouterr().err
    assert not path.exists()


def test_an_interrupted_run_is_resumed(
    folder: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, size = folder / "resnet18.pth", ["--arch", ARCH, "--input-size", "32"]
    less = ["--method", "channel", "--ratio", "2", "--repair", "--skip", "layer[2-4].*"]
    less += ["--skip", "layer1.1.*"]
    whole, path = tmp_path / "whole.safetensors", tmp_path / "small.safetensors"
    assert run("compress", source, *size, *less, "-o", whole) == 0
    with monkeypatch.context() as patch:
        patch.setattr(CompressionCheckpoints, "repaired", _interrupted_at(1))
        assert run("compress", source, *size, *less, "--resume", "-o", path) == 130
    kept = tmp_path / "small.checkpoints"
    assert len(list(kept.glob("repaired-*"))) == 1
    assert not path.exists()
    capsys.readouterr()
    other = ["--method", "channel", "--ratio", "3", "--repair"]
    assert run("compress", source, *size, *other, "--resume", "-o", path) == 2
    assert "holds a run with other options; remove the folder" in capsys.readouterr().err
    assert run("compress", source, *size, *less, "--resume", "-o", path) == 0
    assert not kept.exists()
    assert path.read_bytes() == whole.read_bytes()
    assert run("compress", source, *size, "--rank", "2", "--resume", "-o", path) == 2
    assert "--resume is for the plan and the repair" in capsys.readouterr().err


def _interrupted_at(count: int) -> Any:
    original = CompressionCheckpoints.repaired

    def repaired(self: CompressionCheckpoints, index: int) -> Any:
        if index == count:
            raise KeyboardInterrupt
        return original(self, index)

    return repaired
