"""The JSON schema of plans that the pages publish."""

import json
from pathlib import Path

import pytest

from decompose.methods.choices import Choice, Note
from decompose.methods.pruning import PrunedChannels
from decompose.models.plans import LatencyReport, Plan

jsonschema = pytest.importorskip("jsonschema")
PATH = Path(__file__).parents[2] / "docs" / "reference" / "plan.schema.json"
SCHEMA = json.loads(PATH.read_text(encoding="utf-8"))
PRUNED = Choice("prune", 3, pruned=PrunedChannels((0, 1, 4), 5, ("e",)))
POOLED = Choice("pool", 1)
PLAN = Plan(
    {
        "a": Choice("spatial", 8, (Choice("pw_dw", 2), None)),
        "b": Choice("dw_pw", 3),
        "d": PRUNED,
        "f": POOLED,
    },
    {"c": "skipped by name"},
    {"b": Note(10, "MACs", 0.1, "spatial", None)},
    LatencyReport("eager", 1, 9.0, 5.0, 6.0),
    {"b": "merged"},
)


def test_every_part_of_a_plan_fits_the_schema() -> None:
    jsonschema.validate(json.loads(PLAN.to_json()), SCHEMA)
    jsonschema.validate(json.loads(Plan().to_json()), SCHEMA)


@pytest.mark.parametrize(
    "layer",
    [
        {"method": "spatial"},
        {"method": "spatial", "rank": 0},
        {"method": "prune", "rank": 2, "kept": "0-1"},
        3,
    ],
)
def test_what_is_no_plan_does_not_fit(layer: object) -> None:
    record = {"format": "decompose-plan", "version": 1, "layers": {"a": layer}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record, SCHEMA)
