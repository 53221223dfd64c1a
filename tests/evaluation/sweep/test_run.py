"""A sweep: resumed, shared by processes, and guarded against records of another one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import decompose
from decompose import DecomposeError
from decompose.data.bundled import images_in_memory
from decompose.evaluation.confidence_intervals import paired_difference
from decompose.evaluation.sweep import run
from decompose.evaluation.sweep.points import SweepPoint, sweep_points
from decompose.evaluation.sweep.results import plot_sweep, sweep_table
from decompose.evaluation.sweep.run import Sweep
from decompose.evaluation.sweep.scores import Accuracies, OutputErrors
from decompose.layers.costs import count_macs, count_params, trace_shapes

EXAMPLE = torch.zeros(1, 3, 12, 12)
METHODS = ("spatial", "pw_dw")
POINTS = sweep_points({"macs": (0.7, 0.5), "params": (0.5,)}, on_images=(True,), methods=(METHODS,))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    ).eval()


def images() -> list[Tensor]:
    return list(torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(1)).split(4))


@pytest.fixture(autouse=True)
def _no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "time_models", lambda models, *_: {name: 1.0 for name in models})


def sweep(folder: Path, **changed: Any) -> Sweep:
    model = network()
    score = OutputErrors(model, torch.rand(4, 3, 12, 12), "images held out")
    return replace(Sweep(model, EXAMPLE, folder, score, images()), **changed)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "time_models", lambda models, *_: {name: 1.0 for name in models})
        return folder, list(sweep(folder).run(POINTS))


def test_every_point_has_a_model_within_its_budget(done: tuple[Path, list]) -> None:
    folder, (original, *records) = done
    assert [record["name"] for record in records] == [point.name for point in POINTS]
    for record, point in zip(records, POINTS, strict=True):
        small = decompose.load(folder / record["file"], network())
        counts = {
            "macs": sum(count_macs(small, trace_shapes(small, EXAMPLE)).values()),
            "params": count_params(small),
        }
        assert {name: record[name] for name in counts} == counts
        assert record[point.budget] <= point.share * original[point.budget]
        assert 0 < record["score"]["value"] < 1
    assert records[0]["score"]["value"] < records[1]["score"]["value"]
    assert len(list(folder.glob("statistics-*"))) == 1


def test_what_is_there_is_not_made_again(
    done: tuple[Path, list], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, records = done

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("planned again")

    monkeypatch.setattr(run, "plan", refuse)
    monkeypatch.setattr(run, "measure", refuse)
    again = sweep(folder)
    again.gather_statistics(POINTS)
    assert list(again.run(POINTS)) == records


def test_a_point_alone_is_as_in_the_whole(done: tuple[Path, list], tmp_path: Path) -> None:
    _, records = done
    _, alone = sweep(tmp_path).run(POINTS[1:2])
    expected = next(record for record in records if record["name"] == alone["name"])
    assert {**alone, "seconds": 0} == {**expected, "seconds": 0}


@pytest.mark.parametrize(
    "changed",
    [
        {"images": [torch.rand(8, 3, 12, 12)]},
        {"skip": ("0",)},
        {"effort": "quick"},
        {"example": torch.zeros(1, 3, 14, 14)},
    ],
)
def test_records_of_another_sweep_are_refused(
    done: tuple[Path, list], changed: dict[str, Any]
) -> None:
    with pytest.raises(DecomposeError, match="of another model, other images or other options"):
        list(sweep(done[0], **changed).run(POINTS))


def test_damaged_records_are_named(tmp_path: Path) -> None:
    for text in ("{", "[]", json.dumps({"name": "original"})):
        (tmp_path / "original.json").write_text(text)
        with pytest.raises(DecomposeError, match=r"original\.json"):
            list(sweep(tmp_path).run([]))


def test_budgets_that_no_plan_meets_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _: str(tmp_path / "cache"))
    points = [SweepPoint(budget, 1e-6, True, METHODS) for budget in ("macs", "latency")]
    original, *records = sweep(tmp_path).run(points)
    assert ["no plan" in record["failed"] for record in records] == [True, True]
    assert "no plan meets it" in sweep_table(original, records).to_markdown()


def test_images_must_be_there() -> None:
    with pytest.raises(DecomposeError, match="there are none"):
        sweep(Path(), images=None)._digest(POINTS[0])


def test_the_table_and_the_plot_show_every_point(done: tuple[Path, list], tmp_path: Path) -> None:
    _, (original, *records) = done
    table = sweep_table(original, records)
    assert [row[0] for row in table.rows] == [point.name for point in POINTS]
    assert "MACs" in table.rows[0][-1]
    plot_sweep(original, records, tmp_path / "sweep.svg")
    assert "<svg" in (tmp_path / "sweep.svg").read_text()


def to_tensor(image: object) -> Tensor:
    from torchvision.transforms.functional import pil_to_tensor

    return pil_to_tensor(image).float() / 255  # type: ignore[arg-type]


def test_accuracy_is_paired_with_the_original() -> None:
    model = network()
    pixels = torch.rand(40, 3, 12, 12)
    labels = torch.arange(40) % 4
    data = images_in_memory(pixels, labels, to_tensor, tuple("abcd"))
    score = Accuracies.on(model, data)
    other = network()
    other.get_parameter("5.bias").data += torch.tensor([1.0, 0, 0, 0])
    stored = torch.stack([to_tensor(data._read(path)) for path, _ in data.samples])
    with torch.no_grad():
        before, after = (m(stored).argmax(1) == labels for m in (model, other))
    change = paired_difference(before.numpy(), after.numpy())
    found = score.of(other)
    assert score.of_original() == pytest.approx(float(before.double().mean()))
    assert found["value"] == pytest.approx(float(after.double().mean()))
    assert (found["change"], found["low"], found["high"]) == change
