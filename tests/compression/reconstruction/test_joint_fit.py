"""All factors of a layer are fitted together to what it should make of its inputs."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from decompose.algebra import Chain, Conv, Expression, compose, leaves, run
from decompose.compression.reconstruction.cross_validation import BestRefit, best_refit
from decompose.compression.reconstruction.factor_regression import Targets
from decompose.compression.reconstruction.joint_fit import (
    best_joint_fit,
    can_fit_jointly,
    joint_fit,
    jointly_fitted,
)
from decompose.compression.reconstruction.refit_problem import LayerError, RefitProblem
from decompose.compression.reconstruction.ridge import Moments, RidgePath
from decompose.layers.relu import Rectifier
from decompose.methods import get_method

GENERATOR = torch.Generator().manual_seed(0)
# Channels that move together, some much more than others, as behind a trained layer.
MIXING = torch.randn(8, 8, generator=GENERATOR) * torch.logspace(0, -1.5, 8)
SEEN, NEW = (
    torch.einsum("nchw,dc->ndhw", torch.randn(12, 8, 10, 10, generator=GENERATOR), MIXING)
    for _ in range(2)
)
CONV = Conv(
    torch.randn(6, 8, 3, 3, generator=GENERATOR) / 8, torch.randn(6, generator=GENERATOR) / 6
)
RECTIFIER = Rectifier(torch.ones(6), torch.zeros(6))


def best_of(
    start: Expression, rectifier: Rectifier | None = None, *, jointly: bool = True
) -> BestRefit:
    problem = RefitProblem("", CONV if jointly else start, rectifier)
    unchanged = LayerError(start, rectifier)
    for index, x in enumerate(SEEN.split(1)):
        targets = Targets.of(CONV, run(CONV, x))
        problem.add(index % 4, x, targets)
        unchanged.add(index % 4, x, targets)
    if jointly:
        return best_joint_fit(problem, start, start, is_rectified=True)
    return best_refit(problem, unchanged, is_rectified=True)


def error(expression: Expression, rectifier: Rectifier | None = None) -> float:
    given, wanted = (run(e, NEW).movedim(1, -1) for e in (expression, CONV))
    if rectifier is not None:
        given, wanted = rectifier.read(given), rectifier.read(wanted)
    return float((given - wanted).square().sum() / wanted.square().sum())


def rows_of(features: Tensor, targets: Tensor) -> Moments:
    return Moments.of(features.unsqueeze(0), targets.unsqueeze(0))


def test_a_fit_of_low_rank_is_the_reduced_rank_regression() -> None:
    z = torch.randn(400, 8, generator=GENERATOR) @ MIXING
    conv = Conv(torch.randn(6, 8, generator=GENERATOR))
    path = RidgePath(rows_of(z, z @ conv.weight.mT), conv.weight.double().unsqueeze(0))
    found = get_method("svd")(conv, 2)
    for _ in range(5):
        found = joint_fit(found, path, 0.01, steps=10).factors
    metric = path.metric(0.01)[0]
    root = torch.linalg.cholesky(metric)
    # Eckart and Young: in the coordinates of the root the truncated SVD is best.
    least = torch.linalg.svdvals(conv.weight.double() @ root)[2:].square().sum()
    difference = (compose(found).weight - conv.weight).double() @ root
    assert float(difference.square().sum()) == pytest.approx(float(least), rel=0.01)


@pytest.mark.parametrize("rectifier", [None, RECTIFIER], ids=["linear", "rectified"])
@pytest.mark.parametrize("name", ["dw_pw", "pw_dw", "spatial", "channel", "tucker"])
def test_all_factors_serve_new_inputs_better_than_the_last_alone(
    name: str, rectifier: Rectifier | None
) -> None:
    start = get_method(name)(CONV, 2)
    last, every = (best_of(start, rectifier, jointly=jointly) for jointly in (False, True))
    assert last.expression is not None
    assert every.expression is not None
    assert every.how.startswith("all factors, ridge ")
    assert every.after < every.before
    assert error(every.expression, rectifier) < error(last.expression, rectifier)
    shapes = [[leaf.weight.shape for leaf in leaves(e)] for e in (start, every.expression)]
    assert shapes[0] == shapes[1]


def test_it_can_be_fitted_in_inference_mode() -> None:
    with torch.inference_mode():
        assert best_of(get_method("spatial")(CONV, 2)).expression is not None


def test_what_a_relu_cuts_off_is_left_free() -> None:
    start = get_method("spatial")(CONV, 2)
    linear, rectified = (best_of(start, r).expression for r in (None, RECTIFIER))
    assert linear is not None
    assert rectified is not None
    assert error(rectified, RECTIFIER) < error(linear, RECTIFIER)
    assert error(rectified) > error(linear)


def test_a_layer_that_has_lost_nothing_is_left() -> None:
    best = best_of(CONV)
    assert best.expression is None
    assert best.how == "left"


@pytest.mark.parametrize("name", ["dw_pw", "pw_dw", "spatial", "channel", "tucker"])
def test_factors_of_every_method_can_be_fitted(name: str) -> None:
    assert can_fit_jointly(get_method(name)(CONV, 2), CONV)


def test_factors_that_compose_to_no_kernel_of_the_layer_cannot() -> None:
    start = get_method("spatial")(CONV, 2)
    first, last = leaves(start)
    biased = Chain(replace(first, bias=torch.ones(first.out_channels)), last)
    assert not can_fit_jointly(biased, CONV)
    twice = Chain(Conv(torch.ones(8, 8, 3, 3)), Conv(torch.ones(6, 8, 3, 3)))
    assert not can_fit_jointly(twice, CONV)
    wide = Conv(torch.ones(2, 200, 3, 3))
    assert not can_fit_jointly(get_method("channel")(wide, 1), wide)


def test_several_expressions_are_fitted_as_each_alone() -> None:
    problem = RefitProblem("", CONV)
    problem.add(0, SEEN, Targets.of(CONV, run(CONV, SEEN)))
    starts = [get_method(name)(CONV, 2) for name in ("dw_pw", "spatial")]
    together = jointly_fitted(starts, problem.training(), 0.03)
    for start, found in zip(starts, together, strict=True):
        (alone,) = jointly_fitted([start], problem.training(), 0.03)
        assert torch.equal(compose(found).weight, compose(alone).weight)
        assert error(found) < error(start)
