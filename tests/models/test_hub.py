"""Models on the hub: what is written offline, and what a hub would be given."""

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

import decompose
from decompose import Choice, Plan
from decompose.evaluation.model_card import model_card
from decompose.models import timm_models
from decompose.utils.hashing import weights_digest
from tests.cli.cases import run

NAME = "torchvision:squeezenet1_1,weights=none,num_classes=3"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that ``compress`` would write."""
    path = tmp_path_factory.mktemp("push") / "small.safetensors"
    torch.manual_seed(0)
    plan = Plan({"classifier.1": Choice("svd", 2), "features.3.expand3x3": Choice("pw_dw", 2)})
    decompose.save(decompose.apply(plan, decompose.load(NAME)), path)
    return path


def record_of(model: Path, **others: Any) -> dict[str, Any]:
    weights = {"a.pth": "0", "small": weights_digest(decompose.load(model))}
    data = {"data": "/data/imagenet", "num_pictures": 500, "provenance": {"weights": weights}}
    return {**data, **others}


def push(model: Path, *options: object) -> int:
    return run("push", model, "me/small", *options)


def card_in(folder: Path) -> Any:
    return ModelCard.load(folder / "README.md")


def test_a_folder_holds_the_network_and_its_card(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    assert push(model, "--folder", folder, "--license", "mit", "--input-size", "64") == 0
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "README.md"}
    assert (folder / "model.safetensors").read_bytes() == model.read_bytes()
    card = card_in(folder)
    assert card.data.to_dict()["license"] == "mit"
    assert "decompose" in card.data.to_dict()["tags"]
    assert NAME in card.text
    assert 'decompose.load("hf:me/small")' in card.text
    rows = [line.split("|")[1:-1] for line in card.text.splitlines() if line.startswith("|")]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert cells["classifier.1"][:2] == ["svd", "2"]
    assert cells["features.3.expand3x3"][:2] == ["pw_dw", "2"]
    assert cells["features.0"][0] == "dense"
    _, before, after, fewer = next(row for row in rows if row[0].strip() == "k parameters")
    assert float(before.replace(",", "")) > float(after.replace(",", ""))
    assert fewer.strip().endswith("×")


def test_figures_come_from_a_record_of_these_weights(model: Path, tmp_path: Path) -> None:
    own = {"top1": {"value": 0.75, "low": 0.7, "high": 0.8}, "top5": None}
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record_of(model, accuracies={"small": own})))
    assert push(model, "--folder", tmp_path, "--record", path, "--input-size", "64") == 0
    card = card_in(tmp_path)
    (result,) = card.data.eval_results
    assert (result.metric_value, result.dataset_name) == (0.75, "imagenet")
    assert card.data.to_dict()["pipeline_tag"] == "image-classification"
    assert "75.00" in card.text
    assert "70.00 to 80.00" in card.text
    assert "For one input of 3×64×64" in card.text


def base_of(source: str, tmp_path: Path, model: str | None = None) -> str | None:
    """The base on the card of what a source comes to, behind a plan and a file."""
    network, example = decompose.load(source, model), torch.zeros(1, 3, 32, 32)
    plan = decompose.plan(network, example, method="pw_dw", rank=1)
    decompose.save(decompose.apply(plan, network), tmp_path / "small.safetensors")
    again = decompose.load(tmp_path / "small.safetensors")
    return model_card(again, example, "me/small").data.to_dict().get("base_model")


def test_a_base_is_named_where_its_weights_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untrained(name: str, options: Any) -> dict[str, torch.Tensor]:
        return timm_models.build(name, options).state_dict()

    monkeypatch.setattr(timm_models, "pretrained_state", untrained)
    assert base_of("timm:test_convnext", tmp_path) == "timm/test_convnext.r160_in1k"
    assert base_of("timm:test_convnext,weights=none", tmp_path) is None
    torch.save(untrained("test_convnext", {}), tmp_path / "own.pth")
    assert base_of(str(tmp_path / "own.pth"), tmp_path, "timm:test_convnext") is None


def test_figures_of_detectors(model: Path, tmp_path: Path) -> None:
    own = {"map_50": 0.5, "map": 0.25, "map_voc2007": 0.5, "ap_50": {"cat": 0.5}}
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record_of(model, precisions={"small": own})))
    assert push(model, "--folder", tmp_path, "--record", path, "--input-size", "64") == 0
    assert [r.metric_value for r in card_in(tmp_path).data.eval_results] == [0.5, 0.25, 0.5]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"accuracies": {}, "provenance": {"weights": {"a": "0"}}}', "it has other weights"),
        ('{"accuracies": {}}', "none that decompose evaluate wrote"),
        ('{"macs": 1}', "is no record of decompose evaluate"),
        ("[", "is no JSON"),
    ],
)
def test_other_records(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], record: str, message: str
) -> None:
    path = tmp_path / "record.json"
    path.write_text(record)
    folder = tmp_path / "folder"
    assert push(model, "--folder", folder, "--record", path, "--input-size", "64") == 2
    assert message in capsys.readouterr().err
    assert not folder.exists()


class FakeHub:
    """Keeps what it is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: dict[str, Any] = {}

    def create_repo(self, repo_id: str, **options: Any) -> str:
        """Note what is asked for."""
        self.asked = options
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str, **_: Any) -> None:
        """Keep the files."""
        shutil.copytree(folder_path, self.folder)


def test_a_hub_is_given_what_a_folder_would_hold(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    assert push(model, "--private", "--input-size", "64") == 0
    assert "Published https://huggingface.co/me/small" in capsys.readouterr().out
    assert hub.asked == {"private": True, "exist_ok": True}
    assert push(model, "--folder", tmp_path / "folder", "--input-size", "64") == 0
    for name in ("model.safetensors", "README.md"):
        published = (tmp_path / "hub" / name).read_bytes()
        assert published == (tmp_path / "folder" / name).read_bytes()


def test_without_a_hub_a_folder_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise HTTPError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", unreachable)
    assert push(model, "--input-size", "64") == 2
    printed = capsys.readouterr().err
    assert "me/small: cannot be published (no route to host); --folder DIR writes" in printed
    assert printed.count("\n") == 1


def test_what_cannot_be_published(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("push", model, "a/b/c", "--folder", tmp_path) == 2
    assert "a/b/c: is no name of a repository" in capsys.readouterr().err
    torch.save({}, tmp_path / "a.pth")
    assert push(tmp_path / "a.pth", "--folder", tmp_path) == 2
    assert "is not a model that compress wrote" in capsys.readouterr().err
    assert push(model, "--folder", model / "x", "--input-size", "64") == 2
    assert "cannot be written: Not a directory" in capsys.readouterr().err
