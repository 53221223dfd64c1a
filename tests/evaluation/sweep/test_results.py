"""Pareto fronts of a sweep."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from decompose.evaluation.sweep.results import COSTS, pareto_fronts, relative_costs

ORIGINAL = {"macs": 20, "params": 20, "is_error": False}

RECORDS = st.lists(
    st.tuples(*[st.integers(1, 20)] * 3, st.integers(0, 10)), min_size=1, max_size=8
).map(
    lambda rows: [
        {"name": str(i), "macs": m, "params": p, "time": t / 20, "score": {"value": v / 10}}
        for i, (m, p, t, v) in enumerate(rows)
    ]
)


@given(RECORDS)
def test_fronts_hold_what_nothing_beats_and_beat_the_rest(records: list[dict[str, Any]]) -> None:
    fronts = pareto_fronts(records, ORIGINAL)
    by_name = {record["name"]: record for record in records}

    def beats(a: str, b: str, cost: str) -> bool:
        (x, y), (u, v) = (
            (relative_costs(by_name[n], ORIGINAL)[cost], by_name[n]["score"]["value"])
            for n in (a, b)
        )
        return x <= u and y >= v and (x, y) != (u, v)

    for cost in COSTS:
        assert fronts[cost]
        for name in by_name:
            beaten = any(beats(other, name, cost) for other in by_name)
            assert (name in fronts[cost]) == (not beaten)
