"""The best items of groups, against brute force; and where there are too many sums."""

from itertools import product

import numpy as np
import pytest

from decompose.compression.search.knapsack import best_items


def _brute_force(costs: np.ndarray, losses: np.ndarray, budget: float) -> float:
    rows = np.arange(len(costs))
    sums = (
        (costs[rows, list(items)].sum(), losses[rows, list(items)].sum())
        for items in product(*(range(row.size) for row in costs))
    )
    return min(loss for cost, loss in sums if cost <= budget)


@pytest.mark.parametrize("seed", range(20))
def test_no_other_items_lose_less(seed: int) -> None:
    generator = np.random.default_rng(seed)
    costs = generator.integers(1, 1000, (5, 6)).astype(float)
    losses = generator.random((5, 6)) * 10.0 ** generator.integers(-9, 2)
    # Groups of fewer items.
    costs[0, 3:], losses[0, 3:] = 0, np.inf
    least, most = costs[1:].min(1).sum() + costs[0, :3].min(), costs.max(1).sum()
    budget = least + generator.random() * (most - least)
    found = best_items(costs, losses, budget)
    assert found is not None
    rows = np.arange(5)
    assert costs[rows, found].sum() <= budget
    best = _brute_force(costs, losses, budget)
    assert losses[rows, found].sum() == pytest.approx(best, rel=1e-9)


def test_items_without_loss_are_taken_if_the_budget_allows() -> None:
    costs, losses = np.array([[9.0, 5.0, 1.0]] * 3), np.array([[0.0, 0.1, 1.0]] * 3)
    assert best_items(costs, losses, 27.0) == [0, 0, 0]
    assert best_items(costs, losses, 3.0) == [2, 2, 2]


def test_losses_nearly_proportional_to_costs_leave_too_many_sums() -> None:
    generator = np.random.default_rng(0)
    costs = np.sort(generator.integers(1, 10**7, (20, 30)).astype(float))
    losses = (1e7 - costs) * (1 + 1e-3 * generator.random(costs.shape))
    assert best_items(costs, losses, costs.max(1).sum() / 2) is None
