"""Models to the hub and back, over HTTP on loopback, and from the cache without it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, constants
from torch import nn

import decompose
from decompose import Choice, DecomposeError, Plan
from decompose.evaluation.hub_model import HubModel
from decompose.models.conversion import plan_of
from decompose.models.hub import fetch
from tests.cli.cases import run
from tests.models.hub_stand_in import StandIn, hub_stand_in

NAME = "torchvision:squeezenet1_1,weights=none,num_classes=3"
REPO = "me/small"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The hub's client asks a stand-in, without a token, and begins with an empty cache."""
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    with hub_stand_in() as stand_in:
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.url)
        template = stand_in.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield stand_in


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return decompose.apply(Plan({"classifier.1": Choice("svd", 2)}), decompose.load(NAME))


def same(model: nn.Module, other: nn.Module) -> bool:
    x = torch.ones(1, 3, 64, 64)
    return plan_of(model).to_json() == plan_of(other).to_json() and torch.equal(model(x), other(x))


def test_a_pushed_model_is_loaded_by_its_name(
    hub: StandIn, small: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    decompose.save(small, tmp_path / "small.safetensors")
    assert run("push", tmp_path / "small.safetensors", REPO, "--input-size", 64, "--quiet") == 0
    assert set(hub.files[REPO]) >= {"model.safetensors", "README.md"}
    assert {token for _, path, token in hub.asked if REPO in path} == {"Bearer secret"}
    assert same(decompose.load(f"hf:{REPO}").eval(), small.eval())
    assert same(decompose.load(f"hf:{REPO}@v1").eval(), small)
    assert run("inspect", f"hf:{REPO}", "--input-size", 64, "--quiet") == 0


def test_what_is_in_the_cache_needs_no_hub(
    hub: StandIn, small: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decompose.save(small, tmp_path / "small.safetensors")
    hub.files[REPO] = {"model.safetensors": (tmp_path / "small.safetensors").read_bytes()}
    first = fetch(f"hf:{REPO}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert same(decompose.load(f"hf:{REPO}").eval(), small.eval())
    assert fetch(f"hf:{REPO}", local_files_only=True) == first
    assert not hub.asked
    with pytest.raises(DecomposeError, match="hf:me/other: the hub cannot be reached"):
        fetch("hf:me/other")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:me/none", "there is no such repository, or it is private"),
        ("hf:me/closed", "there is no such repository, or it is private"),
        (f"hf:{REPO}@v9", "has no revision 'v9'"),
        (f"hf:{REPO}", "holds no model.safetensors"),
        ("hf:a/b/c", "is not the name of a repository; write hf:USER/NAME"),
    ],
)
def test_what_the_hub_does_not_give(
    hub: StandIn, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files = {REPO: {"README.md": b""}, "me/closed": {"model.safetensors": b""}}
    hub.private = {"me/closed"}
    assert run("inspect", name) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {name}: ")
    assert message in printed
    assert printed.count("\n") == 1


def test_a_hub_that_does_not_answer_is_one_line(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(DecomposeError, match="hf:me/small: the hub cannot be reached"):
        decompose.load(f"hf:{REPO}")


def test_the_mixin_writes_and_reads_a_folder(small: nn.Module, tmp_path: Path) -> None:
    HubModel(small).save_pretrained(tmp_path / "folder")
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {
        "model.safetensors",
        "README.md",
    }
    again = HubModel.from_pretrained(tmp_path / "folder")
    assert same(again.model.eval(), small.eval())
    x = torch.ones(1, 3, 64, 64)
    assert torch.equal(again(x), small(x))
    card = ModelCard.load(tmp_path / "folder" / "README.md")
    assert card.data.to_dict()["library_name"] == "decompose"
    assert "low-rank" in card.data.to_dict()["tags"]
    assert NAME in card.text


def test_the_mixin_goes_to_the_hub_and_back(hub: StandIn, small: nn.Module) -> None:
    HubModel(small).push_to_hub(REPO, token="secret", private=True)
    assert REPO in hub.private
    with pytest.raises(DecomposeError, match="set HF_TOKEN"):
        HubModel.from_pretrained(REPO)
    again = HubModel.from_pretrained(REPO, token="secret", revision="main")
    assert same(again.model.eval(), small.eval())
    assert f'decompose.load("hf:{REPO}")' in hub.files[REPO]["README.md"].decode()


def test_a_model_without_a_name_needs_its_architecture(tmp_path: Path) -> None:
    original = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    small = decompose.apply(Plan({"1": Choice("pw_dw", 2)}), original)
    HubModel(small).save_pretrained(tmp_path / "plain")
    with pytest.raises(DecomposeError, match="without the name of an architecture"):
        HubModel.from_pretrained(tmp_path / "plain")
    again = HubModel.from_pretrained(tmp_path / "plain", model=original)
    x = torch.ones(1, 3, 8, 8)
    assert torch.equal(again(x), small(x))
    options = {"example": torch.zeros(1, 3, 8, 8), "repo": "me/plain"}
    HubModel(small).save_pretrained(tmp_path / "card", model_card_kwargs=options)
    assert "me/plain" in (tmp_path / "card" / "README.md").read_text()
