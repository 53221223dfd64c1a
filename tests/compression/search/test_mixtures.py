"""The mixture of options as a plan with its notes."""

import pytest

from decompose import Choice, DecomposeError
from decompose.compression.search.candidates import Option
from decompose.compression.search.mixtures import mixture

WEIGHED = {
    "a": [
        Option(None, 100, 0.0),
        Option(Choice("pw_dw", 2), 50, 0.02),
        Option(Choice("spatial", 4), 45, 0.03),
        Option(Choice("pw_dw", 1), 20, 0.3),
    ],
    "b": [Option(None, 100, 0.0), Option(Choice("dw_pw", 1), 60, 0.5)],
}


def test_a_note_names_what_was_chosen_and_the_runner_up() -> None:
    plan = mixture(WEIGHED, {"c": "skipped by name"}, 150, "MACs")
    assert plan.layers == {"a": Choice("pw_dw", 2)}
    assert plan.dense == {"c": "skipped by name", "b": "worth its cost"}
    note = plan.notes["a"]
    assert (note.cost, note.unit, note.error) == (50, "MACs", 0.02)
    assert (note.runner_up, note.runner_up_error) == ("spatial 4", 0.03)


def test_a_budget_that_cannot_be_met() -> None:
    with pytest.raises(DecomposeError, match="the least is 80 MACs"):
        mixture(WEIGHED, {}, 79, "MACs")
