"""Factors are balanced, and decayed as the kernel that they compose to."""

import pytest
import torch

import decompose
from decompose import DecomposeError
from decompose.algebra import compose
from decompose.layers.discovery import find_decomposed
from decompose.models.conversion import set_forms_
from decompose.training.frobenius_decay import balance_, composed_energy, parameter_groups
from tests.support.strategies import Mixed

EXAMPLE = torch.randn(2, 3, 32, 32, dtype=torch.float64)


def rewritten(method: str = "pw_dw") -> torch.nn.Module:
    model = Mixed().double().eval()
    return decompose.apply(decompose.plan(model, EXAMPLE, method=method, rank=2), model)


def test_balancing_leaves_the_network_as_it_computes() -> None:
    small = rewritten()
    before = small(EXAMPLE)
    assert all(layer.expression is not None for layer in find_decomposed(small).values())
    balance_(small)
    torch.testing.assert_close(small(EXAMPLE), before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", ["branches", "merged", "dense"])
def test_the_penalty_is_that_of_the_composed_kernels_in_every_form(form: str) -> None:
    small = rewritten()
    layers = find_decomposed(small)
    expected = sum(compose(layer.expression).weight.square().sum() for layer in layers.values())
    set_forms_(small, dict.fromkeys(layers, form))
    energy = composed_energy(small)
    torch.testing.assert_close(energy.double(), expected, rtol=1e-6, atol=0)
    energy.backward()
    trained = [p for layer in layers.values() for n, p in layer.named_parameters() if "weight" in n]
    assert all(weight.grad is not None and weight.grad.any() for weight in trained)
    assert all(p.grad is None for n, p in small.named_parameters() if n.endswith("bias"))


def test_the_penalty_does_not_see_how_a_scale_is_split() -> None:
    small = rewritten()
    before = composed_energy(small)
    balance_(small)
    torch.testing.assert_close(composed_energy(small), before, rtol=1e-5, atol=0)
    (layer, *_) = find_decomposed(small).values()
    first = next(p for name, p in layer.named_parameters() if name.endswith("weight"))
    with torch.no_grad():
        first.mul_(2)
    assert composed_energy(small) > before


def test_the_optimiser_decays_dense_weights_alone() -> None:
    small = rewritten()
    decayed, free = parameter_groups(small, 0.1)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in small.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        f"{name}.weight" for name in ("stem", "depthwise", "pointwise", "classifier")
    }
    assert len(decayed["params"]) + len(free["params"]) == len(names)


def test_frozen_parameters_are_left_out() -> None:
    small = rewritten().requires_grad_(False)
    with pytest.raises(DecomposeError, match="no parameter of the model requires a gradient"):
        parameter_groups(small, 0.1)
