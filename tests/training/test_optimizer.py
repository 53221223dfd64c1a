"""Optimisers and learning rates are the recipe's."""

import pytest
import torch
from torch.optim import SGD, AdamW

from decompose.training.optimizer import make_optimiser, make_schedule
from decompose.training.recipe import Recipe
from tests.training.cases import models


def rates(recipe: Recipe, steps: int) -> list[float]:
    _, small = models()
    optimiser = make_optimiser(small, recipe)
    schedule = make_schedule(optimiser, recipe, steps)
    found = []
    for _ in range(recipe.epochs * steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert len({group["lr"] for group in optimiser.param_groups}) == 1
    return [*found, optimiser.param_groups[0]["lr"]]


def test_the_rate_rises_and_falls_along_a_cosine() -> None:
    found = rates(Recipe(epochs=2, learning_rate=0.4, warmup=0.2), 10)
    assert found[0] == pytest.approx(0.004)
    assert found[4] == max(found) == pytest.approx(0.4)
    assert found[12] == pytest.approx(0.2)
    assert found[-1] == pytest.approx(0, abs=1e-9)
    assert found[4:] == sorted(found[4:], reverse=True)


def test_the_shortest_runs_have_a_schedule() -> None:
    assert rates(Recipe(epochs=1, learning_rate=0.4, warmup=0.9), 1)[0] == 0.4
    assert rates(Recipe(epochs=1, learning_rate=0.4, warmup=0.0), 2)[0] == 0.4


def test_factors_and_biases_are_not_decayed_by_the_optimiser() -> None:
    _, small = models()
    for name, kind in (("sgd", SGD), ("adamw", AdamW)):
        optimiser = make_optimiser(small, Recipe(optimiser=name, weight_decay=0.1))
        assert isinstance(optimiser, kind)
        before = {n: p.detach().clone() for n, p in small.named_parameters()}
        for parameter in small.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        moved = {n for n, p in small.named_parameters() if not torch.equal(p, before[n])}
        assert moved == {"classifier.weight"}
