"""The data of a refit adds up over folds, and a layer's own error is that of its outputs."""

import pytest
import torch

from decompose.algebra import Conv, run
from decompose.compression.reconstruction.factor_regression import Targets
from decompose.compression.reconstruction.refit_problem import LayerError, RefitProblem
from decompose.layers.relu import Rectifier
from decompose.methods import get_method

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(6, 4, 10, 10, generator=GENERATOR)
CONV = Conv(torch.randn(6, 4, 3, 3, generator=GENERATOR), torch.randn(6, generator=GENERATOR))
TRUNCATED = get_method("spatial")(CONV, 2)


def test_folds_add_up() -> None:
    problem = RefitProblem("", TRUNCATED)
    for index, x in enumerate(X.split(1)):
        problem.add((0, 1, 2, 0, 1, None)[index], x, Targets.of(CONV, run(CONV, x)))
    assert problem.folds == [0, 1, 2]
    everything = problem.training().rows
    assert everything.count == 6 * 64
    for fold in problem.folds:
        rest, held = problem.training(without=fold).rows, problem.held_out(fold).rows
        assert rest.count + held.count == everything.count
        torch.testing.assert_close(rest.zz + held.zz, everything.zz)
        torch.testing.assert_close(rest.yz + held.yz, everything.yz)


@pytest.mark.parametrize("rectifier", [None, Rectifier(torch.ones(6), torch.zeros(6))])
def test_the_error_of_a_layer_is_that_of_its_outputs(rectifier: Rectifier | None) -> None:
    found = LayerError(TRUNCATED, rectifier)
    for index, x in enumerate(X.split(1)):
        found.add((1, 3, None, 1, 2, 3)[index], x, Targets.of(CONV, run(CONV, x)))
    assert found.folds == [1, 3]  # aids never judge, nor a third fold
    chosen = X[[0, 1, 3, 5]]
    given, expected = (run(e, chosen).movedim(1, -1) for e in (TRUNCATED, CONV))
    if rectifier is not None:
        given, expected = rectifier.read(given), rectifier.read(expected)
    right = float((given - expected).square().sum() / expected.square().sum())
    assert found.relative == pytest.approx(right, rel=1e-5)
