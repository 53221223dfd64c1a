"""The refit that is chosen serves inputs held out."""

import pytest
import torch
from torch import Tensor

from decompose.algebra import Conv, Expression, run
from decompose.compression.reconstruction.cross_validation import (
    RIDGES,
    BestRefit,
    _errors,
    _mixed_error,
    _ridge,
    _squared_error,
    best_refit,
)
from decompose.compression.reconstruction.factor_regression import Targets
from decompose.compression.reconstruction.refit_problem import LayerError, RefitProblem
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


def best_of(
    truncated: Expression, layer: Expression | None = None, rectifier: Rectifier | None = None
) -> BestRefit:
    problem = RefitProblem("", truncated, rectifier)
    unchanged = LayerError(layer or truncated, rectifier)
    for index, x in enumerate(X.split(1)):
        problem.add(index % 4, x, wanted(x))
        unchanged.add(index % 4, x, wanted(x))
    return best_refit(problem, unchanged, is_rectified=True)


def test_an_exact_layer_is_left() -> None:
    best = best_of(CONV)
    assert best.expression is None
    assert best.before == best.after < 1e-6


def test_a_layer_without_output_is_left() -> None:
    problem, unchanged = RefitProblem("", CONV), LayerError(CONV)
    for fold in (0, 1):
        for either in (problem, unchanged):
            either.add(fold, X[:1], Targets.of(CONV, torch.zeros(1, 6, 8, 8)))
    assert best_refit(problem, unchanged, is_rectified=True).expression is None


@pytest.mark.parametrize("rectifier", [None, RECTIFIER], ids=["linear", "rectified"])
@pytest.mark.parametrize("name", ["dw_pw", "pw_dw", "spatial"])
def test_the_best_refit_lowers_the_error_that_is_reported(
    name: str, rectifier: Rectifier | None
) -> None:
    truncated = get_method(name)(CONV, 1)
    best = best_of(truncated, rectifier=rectifier)
    assert best.expression is not None
    assert best.after < best.before
    better = best.expression

    def error(expression: Expression, x: Tensor) -> float:
        given, wanted = (run(e, x).movedim(1, -1) for e in (expression, CONV))
        if rectifier is not None:
            given, wanted = rectifier.read(given), rectifier.read(wanted)
        return float((given - wanted).square().sum() / wanted.square().sum())

    # Two of the four folds judge.
    assert error(truncated, X[[0, 1, 4, 5]]) == pytest.approx(best.before, rel=1e-3)
    assert error(better, X) < error(truncated, X)


def test_a_layer_better_than_any_refit_of_another_truncation_is_left() -> None:
    better, worse = (get_method("spatial")(CONV, rank) for rank in (11, 1))
    assert best_of(worse, better).expression is None
    assert best_of(better, worse).expression is not None


@pytest.mark.parametrize("num_targets", [80, 512])
def test_mixtures_of_the_targets_find_the_ridge_that_all_of_them_find(num_targets: int) -> None:
    conv = Conv(torch.randn(num_targets, 70, 3, 3, generator=GENERATOR) / 25)
    truncated = get_method("channel")(conv, 66)
    x = torch.randn(8, 70, 8, 8, generator=GENERATOR)
    problem = RefitProblem("", truncated)
    assert problem.has_many_targets
    for index, one in enumerate(x.split(1)):
        problem.add(index % 4, one, Targets.of(conv, run(conv, one)))
    ridges = [_ridge(problem, ridge) for ridge in RIDGES]
    exact, mixed = (
        _errors(ridges, problem.folds, error_of) for error_of in (_squared_error, _mixed_error)
    )
    found = min(mixed, key=mixed.__getitem__)
    assert exact[found] < 1.01 * min(exact.values())


def test_the_first_ridges_span_all() -> None:
    assert list(RIDGES) == sorted(RIDGES, reverse=True)
    assert len(RIDGES) % 2 == 1


def test_aids_help_where_inputs_are_few() -> None:
    truncated = get_method("dw_pw")(CONV, 1)
    errors = []
    for num_aids in (0, 32):
        problem, unchanged = RefitProblem("", truncated), LayerError(truncated)
        for index in range(2):
            x = X[index : index + 1, :, :4, :4]
            problem.add(index % 4, x, wanted(x))
            unchanged.add(index % 4, x, wanted(x))
        for seed in range(num_aids):
            x = torch.randn(1, 4, 10, 10, generator=torch.Generator().manual_seed(seed + 1)) + 1
            problem.add(None, x, wanted(x))
        best = best_refit(problem, unchanged, is_rectified=True)
        refit = best.expression or truncated
        errors.append(float((run(refit, X) - run(CONV, X)).square().sum()))
    assert errors[1] < errors[0]
