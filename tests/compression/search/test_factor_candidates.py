"""Candidates that decompose the factors of a layer in turn."""

import torch
from torch import nn

import decompose
from decompose import Choice, Plan
from decompose.algebra import Chain, Conv, macs, weight_deviation
from decompose.algebra.composition import compose
from decompose.compression.search.factor_candidates import find_factor_candidates
from decompose.layers.discovery import find_decomposed
from decompose.methods.combinations import parse_combination

COMBINATIONS = [parse_combination(name) for name in ("pw_dw", "spatial", "svd", "spatial+pw_dw")]


def factors() -> Chain:
    """Two factors, of which the first is one depthwise kernel behind one pointwise."""
    first = Conv(torch.einsum("oi,ohw->oihw", torch.randn(12, 16), torch.randn(12, 3, 3)))
    return Chain(first, Conv(torch.randn(16, 12, 1, 1)))


def cost(expression: object) -> int:
    return macs(expression, (8, 8))  # type: ignore[arg-type]


def test_cost_and_error_are_those_of_the_whole_layer() -> None:
    torch.manual_seed(0)
    chain = factors()
    whole = compose(chain)
    found = find_factor_candidates(
        chain, COMBINATIONS, cost, lambda e: weight_deviation(e, whole).relative
    )
    assert {candidate.label for candidate in found} == {
        "factors+pw_dw",
        "factors+spatial",
        "factors+svd",
    }
    for candidate in found:
        assert candidate.is_in_turn
        assert candidate.choice is not None
        made = candidate.choice.go_on(chain)
        assert candidate.cost == cost(made) < cost(chain)
        assert abs(candidate.error - weight_deviation(made, whole).relative) < 1e-4
    exact = [c for c in found if c.error < 1e-9 and c.choice is not None]
    assert Choice("factors", 2, (Choice("pw_dw", 1), None)) in [c.choice for c in exact]


def test_small_factors_are_left() -> None:
    chain = Chain(Conv(torch.randn(32, 32, 3, 3)), Conv(torch.randn(4, 32, 1, 1)))
    found = find_factor_candidates(chain, COMBINATIONS, cost, lambda _: 0.5)
    assert found
    assert all(c.choice is not None and c.choice.then[1] is None for c in found)


def test_a_plan_takes_the_factors_where_these_lose_less_and_says_what_the_other_way_loses() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 16, 3, bias=False)).eval()
    first = decompose.apply(Plan({"0": Choice("channel", 12)}), model)
    chain = factors()
    (layer,) = find_decomposed(first).values()
    layer.assign(chain)  # as training might
    x = torch.randn(4, 16, 10, 10)
    plan = decompose.plan(first, x[:1], macs=0.6, methods=("channel", "pw_dw"), calibrate=x)
    assert plan.layers == {"0": Choice("factors", 2, (Choice("pw_dw", 1), None))}
    note = plan.notes["0"]
    assert note.error < 1e-6
    assert note.runner_up.startswith(("channel", "pw_dw"))
    assert note.runner_up_error is not None
    assert note.runner_up_error > note.error
    torch.testing.assert_close(decompose.apply(plan, first)(x), first(x), rtol=1e-3, atol=1e-3)
