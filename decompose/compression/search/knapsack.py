"""Multiple-choice knapsack: one item of every group, the least loss in all, within a budget.

For any price of cost, ``sum over groups of min(loss + price cost) - price budget`` is at most the least
loss (Lagrange), and an item that exceeds its group's minimum by more than what lies between that bound and
some known solution is in no better one (Sinha and Zoltners 1979, "The multiple-choice knapsack problem").
At the best price few items are left. All their sums are built up, group after group, without those that
cost and lose more than another, or exceed the minima by too much. That is exact and takes milliseconds, but
where losses are nearly proportional to costs too many sums are left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MOST_SUMS = 4096

_HALVINGS = 60
"""Of the range of prices: as many as a number in float64 has binary digits, and a few."""

_ROUNDING = 1e-12

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]


def best_items(costs: Floats, losses: Floats, budget: float) -> list[int] | None:
    """Pick an item of every group, so that the sum of losses is the least within a budget.

    Args:
        costs: ``(groups, items)``, whole numbers.
        losses: ``(groups, items)``; infinite where a group has fewer items than others.
        budget: no less than the cheapest items cost together.

    Returns:
        The index of each group's item; ``None`` where too many sums are left.

    Example:
        >>> best_items(np.array([[3.0, 1.0], [3.0, 1.0]]), np.array([[0.0, 1.0], [0.0, 2.0]]), 4.0)
        [1, 0]
    """
    price = _best_price(costs, losses, budget)
    priced = losses + price * costs
    minima = priced.min(1)
    known = _improved(priced.argmin(1), costs, losses, budget)
    rounding = _ROUNDING * (minima.sum() + price * budget)
    gap = _of(losses, known).sum() - (minima.sum() - price * budget) + rounding
    return _best_sum(costs, losses, priced - minima[:, None], gap, budget)


def _best_price(costs: Floats, losses: Floats, budget: float) -> float:
    """The price of the highest bound, but for rounding: the lowest whose choices are within the budget."""

    def is_within(price: float) -> bool:
        return _of(costs, (losses + price * costs).argmin(1)).sum() <= budget

    low, high = 0.0, 1 / max(budget, 1.0)
    while not is_within(high):
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_within(middle) else (middle, high)
    return high


def _improved(picked: Integers, costs: Floats, losses: Floats, budget: float) -> Integers:
    """Choices within the budget, changed one by one for the one that gains most and still is."""
    picked = picked.copy()
    while True:
        dearer = costs - _of(costs, picked)[:, None]
        gains = _of(losses, picked)[:, None] - losses
        gains[dearer > budget - _of(costs, picked).sum()] = 0
        group, item = np.unravel_index(gains.argmax(), gains.shape)
        if not gains[group, item] > 0:
            return picked
        picked[group] = item


def _best_sum(
    costs: Floats, losses: Floats, excesses: Floats, gap: float, budget: float
) -> list[int] | None:
    """The best choices whose excesses over the groups' minima are within the gap together."""
    left = np.where(np.isfinite(losses), costs, np.inf).min(1).sum()
    cost = loss = excess = np.zeros(1)
    steps: list[tuple[int, Integers, Integers]] = []
    for group in np.argsort((excesses <= gap).sum(1)):
        items = np.flatnonzero(excesses[group] <= gap)
        left -= costs[group, np.isfinite(losses[group])].min()
        cost, loss, excess = (
            (known[:, None] + more[group, items]).ravel()
            for known, more in ((cost, costs), (loss, losses), (excess, excesses))
        )
        kept = np.flatnonzero((excess <= gap) & (cost + left <= budget))
        kept = kept[_undominated(cost[kept], loss[kept])]
        if not 0 < len(kept) <= _MOST_SUMS:
            return None
        cost, loss, excess = cost[kept], loss[kept], excess[kept]
        steps.append((int(group), kept // len(items), items[kept % len(items)]))
    return _traced_back(steps, int(loss.argmin()))


def _undominated(cost: Floats, loss: Floats) -> Integers:
    """Indices of the sums that lose less than all that cost no more, by rising cost."""
    order = np.lexsort((loss, cost))
    falling = np.minimum.accumulate(np.append(np.inf, loss[order]))
    return order[falling[1:] < falling[:-1]]


def _traced_back(steps: list[tuple[int, Integers, Integers]], index: int) -> list[int]:
    """The items of one sum, from what each step added to which sum before."""
    found = [0] * len(steps)
    for group, before, items in reversed(steps):
        found[group], index = int(items[index]), int(before[index])
    return found


def _of(values: Floats, picked: Integers) -> Floats:
    return values[np.arange(len(picked)), picked]
