"""The optimum under a budget, against brute force."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decompose import Choice
from decompose.compression.search import allocation
from decompose.compression.search.allocation import allocate, mixture
from decompose.compression.search.candidates import Candidate
from decompose.utils.errors import DecomposeError

GROUPS = st.lists(
    st.lists(st.tuples(st.integers(0, 10**9), st.floats(0, 20)), min_size=1, max_size=5),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("is_left_to_solver", [False, True])
@given(groups=GROUPS, share=st.floats(0, 1))
def test_it_is_the_best_there_is_and_within_the_budget(
    is_left_to_solver: bool, groups: list, share: float
) -> None:
    candidates = {
        str(index): [Candidate(None, cost, -math.expm1(-loss)) for cost, loss in group]
        for index, group in enumerate(groups)
    }
    least = sum(min(c.cost for c in group) for group in candidates.values())
    most = sum(max(c.cost for c in group) for group in candidates.values())
    budget = least + share * (most - least)
    with pytest.MonkeyPatch.context() as patch:
        if is_left_to_solver:
            patch.setattr(allocation, "best_items", lambda *_: None)
        picked = allocate(candidates, budget, "MACs")
    assert sum(candidate.cost for candidate in picked.values()) <= budget
    best = min(
        sum(c.loss for c in combination)
        for combination in product(*candidates.values())
        if sum(c.cost for c in combination) <= budget
    )
    assert sum(candidate.loss for candidate in picked.values()) == pytest.approx(best, abs=1e-6)


def test_a_budget_that_cannot_be_met_tells_the_least() -> None:
    candidates = {"a": [Candidate(None, 30, 0), Candidate(None, 20, 1)]}
    with pytest.raises(
        DecomposeError, match="no plan meets the budget of 10 MACs: the least is 20 MACs"
    ):
        allocate(candidates, 10, "MACs")
    assert allocate({}, 10, "MACs") == {}


def test_a_budget_below_what_stays_dense_is_said_without_minus_signs() -> None:
    with pytest.raises(DecomposeError, match="what is not decomposed takes 30 MACs more than it"):
        allocate({}, -30, "MACs")


SCORED = {
    "a": [
        Candidate(None, 100, 0.0),
        Candidate(Choice("pw_dw", 2), 50, 0.02),
        Candidate(Choice("spatial", 4), 45, 0.03),
        Candidate(Choice("pw_dw", 1), 20, 0.3),
    ],
    "b": [Candidate(None, 100, 0.0), Candidate(Choice("dw_pw", 1), 60, 0.5)],
}


def test_a_note_names_what_was_chosen_and_the_runner_up() -> None:
    plan = mixture(SCORED, {"c": "skipped by name"}, 150, "MACs")
    assert plan.layers == {"a": Choice("pw_dw", 2)}
    assert plan.dense == {"c": "skipped by name", "b": "worth its cost"}
    note = plan.notes["a"]
    assert (note.cost, note.unit, note.error) == (50, "MACs", 0.02)
    assert (note.runner_up, note.runner_up_error) == ("spatial 4", 0.03)


def test_a_budget_that_cannot_be_met() -> None:
    with pytest.raises(DecomposeError, match="the least is 80 MACs"):
        mixture(SCORED, {}, 79, "MACs")


@given(GROUPS, st.lists(st.tuples(st.integers(0, 10**9), st.floats(0, 20)), min_size=1, max_size=3))
def test_a_candidate_of_several_layers_takes_the_place_of_each(groups: list, several: list) -> None:
    candidates = {
        str(index): [Candidate(None, cost, -math.expm1(-loss)) for cost, loss in group]
        for index, group in enumerate(groups)
    }
    name, *others = candidates
    alone = list(candidates.values())
    covering = [Candidate(None, c, -math.expm1(-x), tuple(others)) for c, x in several]
    budget = sum(max(c.cost for c in group) for group in alone)
    picked = allocate({**candidates, name: candidates[name] + covering}, budget, "MACs")
    sums = [tuple(choice) for choice in product(*alone)] + [(c,) for c in covering]
    best = min(sum(c.loss for c in o) for o in sums if sum(c.cost for c in o) <= budget)
    assert sum(c.cost for c in picked.values()) <= budget
    assert sum(c.loss for c in picked.values()) == pytest.approx(best, abs=1e-6)
    taken = [layer for layer, c in picked.items() for layer in (layer, *c.covers)]
    assert sorted(taken) == sorted(candidates)


def test_the_least_cost_counts_candidates_of_several_layers() -> None:
    both = Candidate(None, 3, 0.5, ("b",))
    candidates = {"a": [Candidate(None, 5, 0.0), both], "b": [Candidate(None, 5, 0.0)]}
    assert allocate(candidates, 4, "MACs") == {"a": both}
    with pytest.raises(DecomposeError, match="the least is 3 MACs"):
        allocate(candidates, 2, "MACs")
