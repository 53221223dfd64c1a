"""Plans on disk, written by us or edited by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from decompose import Choice, DecomposeError, Plan
from decompose.methods.choices import Note

PLAN = Plan({"conv1": Choice("pw_dw", 3), "conv2": Choice("dw_pw", 4)}, {"stem": "skipped by name"})


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == PLAN
    assert Plan.from_json(Plan().to_json()) == Plan()
    noted = replace(PLAN, notes={"conv1": Note(9, "MACs", 0.1, "dw_pw 2", 0.2)})
    assert Plan.from_json(noted.to_json()) == noted


def test_it_is_plain_json_with_a_layer_a_line() -> None:
    text = PLAN.to_json()
    assert json.loads(text)["layers"]["conv1"] == {"method": "pw_dw", "rank": 3}
    assert '    "conv1": {"method": "pw_dw", "rank": 3},\n' in text


def edited(**changes: object) -> str:
    return json.dumps(json.loads(PLAN.to_json()) | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "is no plan"),
        (edited(format="other"), "is no plan"),
        (edited(version=9), "version 9"),
        (edited(layers=[]), "must be objects"),
        (edited(layers={"conv1": 3}), "conv1: must be"),
        (edited(notes={"conv1": {"price": 3}}), "conv1: is not as a search writes it"),
        (edited(layers={"conv1": {"method": "pw_dw", "rank": "3"}}), "'3' is no whole number"),
        (edited(layers={"conv1": {"method": "pw_dw", "rank": True}}), "no whole number"),
        (edited(layers={"conv1": {"method": 1, "rank": 3}}), "is no name"),
        (edited(layers={"conv1": {"method": "sdv", "rank": 3}}), "no method is called 'sdv'"),
    ],
)
def test_what_is_no_plan_is_refused_with_the_files_name(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(DecomposeError, match=message) as error:
        Plan.load(path)
    assert str(path) in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DecomposeError, match=r"missing\.json: cannot be read"):
        Plan.load(tmp_path / "missing.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DecomposeError, match="is no text"):
        Plan.load(tmp_path / "binary.json")


@pytest.mark.parametrize(
    ("note", "fits"),
    [
        ({"cost": 1, "unit": "MACs", "error": 0}, True),
        ({"cost": 1, "unit": "MACs", "error": 0.5, "runner_up_error": 1.5}, True),
        ({"cost": "much", "unit": "MACs", "error": 0.5}, False),
        ({"cost": 1, "unit": "MACs", "error": None}, False),
        ([1, "MACs", 0.5], False),
    ],
)
def test_notes_are_those_of_a_search(note: object, fits: bool) -> None:
    record = {"format": "decompose-plan", "version": 1, "layers": {}, "notes": {"a": note}}
    if fits:
        assert Plan.from_dict(record).notes["a"].cost == 1
    else:
        with pytest.raises(DecomposeError, match="a: is not as a search writes it"):
            Plan.from_dict(record)


def test_json_without_end() -> None:
    for text in ("[" * 100_000, "1" * 5_000):
        with pytest.raises(DecomposeError, match=r"^here: is no (JSON|plan): [^\n]*$"):
            Plan.from_json(text, "here")


@pytest.mark.parametrize("number", [0, -1, float("inf"), float("nan")])
def test_times_that_nothing_can_be_compared_with_are_refused(number: float) -> None:
    record = json.loads(PLAN.to_json())
    record["pace"] = {
        "place": "x",
        "batch_size": 1,
        "original_ms": 1,
        "predicted_ms": 1,
        "measured_ms": 1,
    }
    assert Plan.from_json(json.dumps(record)).pace is not None
    for key in ("original_ms", "predicted_ms", "measured_ms", "batch_size"):
        changed = record | {"pace": record["pace"] | {key: number}}
        with pytest.raises(DecomposeError, match="pace: is not as a search writes it"):
            Plan.from_json(json.dumps(changed))
