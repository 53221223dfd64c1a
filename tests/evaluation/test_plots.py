"""Tables on the screen and images on disk."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from decompose.evaluation.inspection import inspect_layers
from decompose.evaluation.plots import plot_spectra
from decompose.utils.errors import DecomposeError
from decompose.utils.tables import Table, show_table
from experiments.common.plots import Point, plot_accuracy_against_macs, plot_error_against_macs
from tests.support.strategies import Mixed

INSPECTION = inspect_layers(Mixed(), torch.zeros(1, 3, 32, 32))
CURVES = {"pw_dw": [Point(1, 10, 0.9), Point(2, 20, 0.1)], "dw_pw": [Point(1, 12, 2.0)]}


def test_images_are_drawn(tmp_path: Path) -> None:
    plot_spectra(INSPECTION, tmp_path / "spectrum.png")
    plot_error_against_macs(CURVES, 40, tmp_path / "error.png", title="a title")
    kept = tmp_path / "accuracy.png"
    plot_accuracy_against_macs(CURVES, Point(None, 40, 0.95), kept, title="a title", label="top-1")
    for name in ("spectrum.png", "error.png", "accuracy.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 200
            colours = image.convert("RGB").getcolors(maxcolors=1 << 24)
        assert colours is not None
        assert len(colours) > 50
    plot_spectra(INSPECTION, tmp_path / "spectrum.svg")
    assert "<svg" in (tmp_path / "spectrum.svg").read_text()


def test_images_that_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DecomposeError, match=r"spectrum\.txt: its ending names no image format"):
        plot_spectra(INSPECTION, tmp_path / "spectrum.txt")
    pointwise = inspect_layers(nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 8, 8))
    with pytest.raises(DecomposeError, match="no spatial convolution"):
        plot_spectra(pointwise, tmp_path / "spectrum.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DecomposeError, match="Matplotlib is not installed: pip install"):
        plot_spectra(INSPECTION, tmp_path / "spectrum.png")
    assert not list(tmp_path.iterdir())


def test_a_table_is_shown_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    table = Table("Title", ["layer", *"abcdefgh"], [["conv1", *["123,456"] * 8]])
    show_table(table)
    assert capsys.readouterr().out.count("123,456") == 8
