"""The refit that is chosen serves inputs held out."""

import pytest
import torch
from torch import Tensor

from decompose.algebra import Conv, Expression, run
from decompose.compression.reconstruction.cross_validation import RIDGES, RefitProblem, judge_ways
from decompose.compression.reconstruction.last_factors import Targets, refitted
from decompose.layers.relu import Rectifier
from decompose.methods import get_method

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(8, 4, 10, 10, generator=GENERATOR) + 1
CONV = Conv(
    torch.randn(6, 4, 3, 3, generator=GENERATOR) / 6, torch.randn(6, generator=GENERATOR) / 6
)
RECTIFIER = Rectifier(torch.ones(6), torch.zeros(6))


def wanted(x: Tensor) -> Targets:
    return Targets.of(CONV, run(CONV, x))


def shown(
    expression: Expression, rectifier: Rectifier | None = None, label: str = ""
) -> RefitProblem:
    draft = RefitProblem(label, expression, rectifier)
    for index, x in enumerate(X.split(1)):
        draft.add(index % 4, x, wanted(x))
    return draft


def test_an_exact_layer_is_left() -> None:
    verdict = judge_ways([shown(CONV)])
    assert verdict.way is None
    assert verdict.before == verdict.after < 1e-6


def test_a_network_without_output_is_left() -> None:
    draft = RefitProblem("", CONV)
    draft.add(0, X[:1], Targets.of(CONV, torch.zeros(1, 6, 8, 8)))
    draft.add(1, X[:1], Targets.of(CONV, torch.zeros(1, 6, 8, 8)))
    assert judge_ways([draft]).way is None


@pytest.mark.parametrize("rectifier", [None, RECTIFIER], ids=["linear", "rectified"])
@pytest.mark.parametrize("name", ["dw_pw", "pw_dw", "spatial"])
def test_the_best_way_lowers_the_error_it_tells(name: str, rectifier: Rectifier | None) -> None:
    truncated = get_method(name)(CONV, 1)
    verdict = judge_ways([shown(truncated, rectifier)])
    assert verdict.way is not None
    assert verdict.after < verdict.before
    better = refitted(truncated, verdict.way.fit())

    def error(expression: Expression) -> float:
        given, wanted = (run(e, X).movedim(1, -1) for e in (expression, CONV))
        if rectifier is not None:
            given, wanted = rectifier.read(given), rectifier.read(wanted)
        return float((given - wanted).square().sum() / wanted.square().sum())

    assert error(truncated) == pytest.approx(verdict.before, rel=1e-3)
    assert error(better) < verdict.after


def test_a_better_draft_is_taken() -> None:
    worse, better = (get_method("spatial")(CONV, rank) for rank in (1, 11))
    verdict = judge_ways([shown(worse), shown(better, label="other, ")])
    assert verdict.way is not None
    assert verdict.way.how.startswith("other, ")


def test_the_first_ridges_span_all() -> None:
    assert list(RIDGES) == sorted(RIDGES, reverse=True)
    assert len(RIDGES) % 2 == 1


def test_aids_help_where_inputs_are_few() -> None:
    truncated = get_method("dw_pw")(CONV, 1)
    errors = []
    for num_aids in (0, 32):
        draft = RefitProblem("", truncated)
        for index in range(2):
            x = X[index : index + 1, :, :4, :4]
            draft.add(index % 4, x, wanted(x))
        for seed in range(num_aids):
            x = torch.randn(1, 4, 10, 10, generator=torch.Generator().manual_seed(seed + 1)) + 1
            draft.add(None, x, wanted(x))
        verdict = judge_ways([draft])
        refit = truncated if verdict.way is None else refitted(truncated, verdict.way.fit())
        errors.append(float((run(refit, X) - run(CONV, X)).square().sum()))
    assert errors[1] < errors[0]
