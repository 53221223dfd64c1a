"""Synthetic inputs are fitted to what normalisations keep."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import decompose
from decompose.data import matched_inputs as module
from decompose.data.matched_inputs import matched_inputs
from decompose.layers.batchnorm import reestimate_
from decompose.layers.forward import evaluating

EXAMPLE = torch.zeros(1, 3, 16, 16)


def network(seed: int = 0) -> nn.Sequential:
    """Normalisations that have seen inputs of another kind than synthetic ones."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(8 * 49, 5),
        nn.BatchNorm1d(5),
    )
    reestimate_(model, [0.3 + torch.randn(32, 3, 16, 16).cumsum(3) / 3])
    return model.eval()


def distance(model: nn.Sequential, x: Tensor) -> float:
    """From the definition: over whole batches, with torch's own moments."""
    norms: list[Any] = [x for x in model if isinstance(x, nn.BatchNorm2d | nn.BatchNorm1d)]
    total, y = 0.0, x
    with evaluating(model):
        layer: Any
        for layer in model:
            if layer in norms:
                read = y.transpose(0, 1).flatten(1)
                wanted = layer.running_var + layer.eps
                apart = (read.mean(1) - layer.running_mean).square()
                apart += (read.std(1, unbiased=False) - wanted.sqrt()).square()
                total += float((apart / wanted).mean()) / len(norms)
            y = layer(y)
    return total


def test_they_come_nearer_to_what_normalisations_keep() -> None:
    model = network()
    before = matched_inputs(EXAMPLE, model, num=6, steps=0)
    after = matched_inputs(EXAMPLE, model, num=6, steps=20)
    assert distance(model, after) < 0.3 * distance(model, before)
    assert after.shape == before.shape
    assert after.dtype == before.dtype


def test_parts_give_the_gradient_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    whole = matched_inputs(EXAMPLE, model, num=6, steps=3)
    monkeypatch.setattr(module, "largest_batch", lambda *_: 2)
    torch.testing.assert_close(
        matched_inputs(EXAMPLE, model, num=6, steps=3), whole, rtol=1e-3, atol=1e-3
    )


def test_the_distance_is_the_definition() -> None:
    model, x = network(), torch.randn(4, 3, 16, 16)
    norms = {str(i): norm for i, norm in enumerate(module.running_norms(model))}
    with evaluating(model):
        found = float(module._distance(module._sums(x, model, norms), norms))
    assert found == pytest.approx(distance(model, x), rel=1e-4)


def test_the_model_is_left_as_it_was() -> None:
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    matched_inputs(EXAMPLE, model, num=2, steps=2)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    "model", [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(3, track_running_stats=False)]
)
def test_without_statistics_they_stay_synthetic(model: nn.Module) -> None:
    wanted = decompose.synthetic_inputs(EXAMPLE, model, num=2)
    assert torch.equal(matched_inputs(EXAMPLE, model, num=2), wanted)


def test_half_precision_is_fitted_in_float32() -> None:
    model = network().half()
    found = matched_inputs(EXAMPLE.half(), model, num=2, steps=2)
    assert found.dtype == torch.float16
    assert next(model.parameters()).dtype == torch.float16


def test_a_model_that_lets_no_gradient_through_keeps_synthetic_inputs() -> None:
    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            """``(N, 3, H, W)`` to the same."""
            with torch.no_grad():
                return self.norm(x)

    model = Closed().eval()
    wanted = decompose.synthetic_inputs(EXAMPLE, model, num=2)
    assert torch.equal(matched_inputs(EXAMPLE, model, num=2), wanted)
