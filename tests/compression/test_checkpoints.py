"""An interrupted compression goes on after its last finished phase, and ends with the same bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import decompose
from decompose.compression.checkpoints import CompressionCheckpoints, key_of
from decompose.compression.reconstruction.repair import repair_
from decompose.utils.errors import DecomposeError


def _model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)]
    return nn.Sequential(*layers).eval()


IMAGES = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def _compressed(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    checkpoints = CompressionCheckpoints.open(folder, key_of(model, IMAGES, {"macs": 0.5}))
    statistics = checkpoints.statistics(lambda: decompose.measure(model, IMAGES[:1], IMAGES))
    plan = checkpoints.plan(
        lambda: decompose.plan(model, IMAGES[:1], macs=0.5, calibrate=statistics)
    )
    small = decompose.apply(plan, model)
    repair_(small, model, IMAGES, checkpoints=checkpoints)
    return small.state_dict()


@pytest.mark.parametrize("phase", ["statistics", "plan", "repaired-0000"])
def test_an_interrupted_run_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    model = _model()
    whole = _compressed(model, tmp_path / "whole")
    kept = len(list((tmp_path / "whole").iterdir()))
    folder = tmp_path / "interrupted"

    def interrupt(*arguments: Any, **_: Any) -> None:
        if any(path.stem == phase for path in folder.iterdir()):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # The first thing that follows each phase.
        for name in ("plan", "repaired"):
            function = getattr(CompressionCheckpoints, name)
            patch.setattr(CompressionCheckpoints, name, _before(interrupt, function))
        with pytest.raises(KeyboardInterrupt):
            _compressed(model, folder)
    assert 1 < len(list(folder.iterdir())) < kept
    again = _compressed(model, folder)
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def _before(first: Any, then: Any) -> Any:
    def both(*arguments: Any) -> Any:
        first(*arguments)
        return then(*arguments)

    return both


def test_finished_phases_are_not_done_again(tmp_path: Path) -> None:
    model = _model()
    whole = _compressed(model, tmp_path)
    checkpoints = CompressionCheckpoints.open(tmp_path, {})
    checkpoints.statistics(pytest.fail)
    plan = checkpoints.plan(pytest.fail)
    small = decompose.apply(plan, model)
    # Nothing of the images is needed any more.
    repair_(small, model, 100 * IMAGES, checkpoints=checkpoints)
    assert all(torch.equal(small.state_dict()[name], tensor) for name, tensor in whole.items())


def test_a_damaged_phase_is_done_again(tmp_path: Path) -> None:
    model = _model()
    whole = _compressed(model, tmp_path)
    for name in ("statistics.safetensors", "plan.json", "repaired-0000.safetensors"):
        (tmp_path / name).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="done again"):
        again = _compressed(model, tmp_path)
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def test_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    model = _model()
    CompressionCheckpoints.open(tmp_path, key_of(model, IMAGES, {"macs": 0.5}))
    with pytest.raises(DecomposeError, match="holds a run with other options; remove the folder"):
        CompressionCheckpoints.open(tmp_path, key_of(model, IMAGES, {"macs": 0.4}))
    with pytest.raises(DecomposeError, match="other images and other options"):
        CompressionCheckpoints.open(tmp_path, key_of(model, IMAGES[:4], {}))
    other = nn.Sequential(nn.Conv2d(3, 4, 1))
    with pytest.raises(DecomposeError, match="other weights;"):
        CompressionCheckpoints.open(tmp_path, key_of(other, IMAGES, {"macs": 0.5}))
