"""Detectors on the command line."""

import json
from pathlib import Path

import torch

import decompose
from decompose.cli.inputs import calibration_images
from decompose.models.architectures import Architecture
from tests.cli.cases import Captured, run
from tests.data.voc_cases import write_voc

DETECTOR = "torchvision:ssdlite320_mobilenet_v3_large"


def test_detectors_see_images_in_their_own_sizes(tmp_path: Path, capsys: Captured) -> None:
    folder, small = write_voc(tmp_path / "VOC"), tmp_path / "small.safetensors"
    arch = f"{DETECTOR},num_classes=21"
    torch.save(Architecture.parse(arch).build().state_dict(), tmp_path / "a.pth")
    command = [
        "compress",
        tmp_path / "a.pth",
        "--arch",
        arch,
        "--method",
        "channel",
        "--ratio",
        "2",
    ]
    assert run(*command, "-o", small) == 0
    assert "head.classification_head.module_list.0.1" in capsys.readouterr().out
    images = ["--images", folder / "JPEGImages", "--workers", "0", "--max-images", "3"]
    assert run("compare", tmp_path / "a.pth", small, *images, "-o", tmp_path / "r.json") == 0
    record = json.loads((tmp_path / "r.json").read_text())
    assert (record["num_inputs"], record["agreement"]) == (3, None)
    assert record["output_error"] > 0
    inputs = calibration_images(folder / "JPEGImages", decompose.load(small), 2)
    assert [tuple(image.shape) for (batch,) in inputs for image in batch] == [
        (3, 320, 320),
        (3, 320, 320),
    ]


def test_evaluate_judges_detectors(tmp_path: Path, capsys: Captured) -> None:
    folder, detector = write_voc(tmp_path / "VOC"), f"{DETECTOR},weights=none"
    (folder / "Annotations" / "brick.xml").write_text("no annotation")
    arguments = ["--task", "detection", "--data", folder, "--workers", "0", "--subset", "2"]
    assert run("evaluate", detector, *arguments, "-o", tmp_path / "r.json") == 0
    captured = capsys.readouterr()
    assert "Mean average precision on 2 images" in captured.out
    assert "brick.xml: is no annotation" in captured.err
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["task"] == "detection"
    assert set(record["precisions"][detector]) == {"map_50", "map", "map_voc2007", "ap_50"}
