"""CP iterates, so it is held to kernels that have the rank it is asked for."""

import pytest
import torch
from torch import nn

from decompose.algebra import leaves, weight_deviation
from decompose.layers.modules import to_conv
from decompose.methods import METHODS
from decompose.utils.errors import DecomposeError


def test_a_planted_rank_is_found() -> None:
    module = nn.Conv2d(8, 7, 3, dtype=torch.float64)
    factors = [torch.randn(size, 3, dtype=torch.float64) for size in (7, 8, 3, 3)]
    with torch.no_grad():
        module.weight.copy_(torch.einsum("or,ir,yr,xr->oiyx", *factors))
    conv = to_conv(module)
    assert weight_deviation(METHODS["cp"](conv, 3), conv).relative < 1e-6
    assert weight_deviation(METHODS["cp"](conv, 1), conv).relative > 1e-3


def test_there_is_no_rule_from_energy_to_rank() -> None:
    with pytest.raises(DecomposeError, match="give a rank"):
        METHODS["cp"].rank_for_energy(to_conv(nn.Conv2d(4, 4, 3)), 0.9)


@pytest.mark.parametrize("rank", [1, 4, 9])
@pytest.mark.parametrize("value", [0.0, 0.3])
def test_constant_kernels_have_finite_factors(value: float, rank: int) -> None:
    module = nn.Conv2d(6, 5, 3)
    nn.init.constant_(module.weight, value)
    conv = to_conv(module)
    expression = METHODS["cp"](conv, rank)
    assert all(torch.isfinite(leaf.weight).all() for leaf in leaves(expression))
    assert weight_deviation(expression, conv).relative < 1e-4


def test_a_kernel_of_lower_rank_than_asked_for_is_met() -> None:
    module = nn.Conv2d(8, 8, 3)
    with torch.no_grad():
        module.weight.copy_(module.weight[:1].expand(8, -1, -1, -1))
    conv = to_conv(module)
    assert weight_deviation(METHODS["cp"](conv, 20), conv).relative < 1e-3
