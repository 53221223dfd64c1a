"""L-BFGS finds the lowest point, in few steps, and never goes up."""

import pytest
import torch
from scipy.optimize import minimize, rosen, rosen_der
from torch import Tensor

from decompose.compression.reconstruction.lbfgs import minimized


def quadratic(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    return root @ root.mT + torch.eye(6).double(), torch.randn(6, generator=generator).double()


def rosenbrock(x: Tensor) -> tuple[float, Tensor]:
    return float(rosen(x.numpy())), torch.from_numpy(rosen_der(x.numpy()))


@pytest.mark.parametrize("seed", range(5))
def test_it_solves_linear_equations(seed: int) -> None:
    matrix, wanted = quadratic(seed)
    found = minimized(
        lambda x: (float(x @ matrix @ x / 2 - wanted @ x), matrix @ x - wanted),
        torch.zeros(6).double(),
        steps=60,
    )
    torch.testing.assert_close(found, torch.linalg.solve(matrix, wanted), rtol=1e-5, atol=1e-6)


def test_it_follows_a_bent_valley_as_scipy_does() -> None:
    start = torch.tensor([-1.2, 1.0]).double()
    ours = minimized(rosenbrock, start, steps=80)
    theirs = minimize(rosen, start.numpy(), jac=rosen_der, method="L-BFGS-B")
    assert rosenbrock(ours)[0] == pytest.approx(theirs.fun, abs=1e-8)


def test_every_step_goes_down() -> None:
    start = torch.tensor([-1.2, 1.0]).double()
    values = [rosenbrock(minimized(rosenbrock, start, steps))[0] for steps in range(12)]
    assert values == sorted(values, reverse=True)
    assert values[0] == rosenbrock(start)[0]


def test_it_stays_where_nothing_is_lower() -> None:
    lowest = torch.ones(3).double()
    assert torch.equal(minimized(rosenbrock, lowest, steps=5), lowest)
    known_to_no_digit = minimized(lambda x: (float("nan"), x), lowest, steps=5)
    assert torch.equal(known_to_no_digit, lowest)
