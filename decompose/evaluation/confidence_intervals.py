"""Compute confidence intervals of shares of images, their differences, and ratios of sums."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A figure with its 95 % confidence interval.

    Attributes:
        value: the figure.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


def share(hits: np.ndarray) -> Estimate:
    """The share of images that hit, ``(N,)`` bool, with Wilson's interval (1927)."""
    count = int(hits.sum())
    interval = stats.binomtest(count, len(hits)).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(count / len(hits), float(interval.low), float(interval.high))


def paired_difference(before: np.ndarray, after: np.ndarray) -> Estimate:
    """The difference of two shares of the same images, ``(N,)`` bool each.

    Only images that one hits and the other misses count. The interval is Wald's with half a
    image added to each of the four cells (Agresti and Min 2005, Statistics in Medicine 24).
    """
    num = len(before)
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    centre = (won - lost) / (num + 2)
    spread = np.sqrt(won + lost + 1 - (won - lost) ** 2 / (num + 2)) / (num + 2)
    reach = stats.norm.ppf((1 + CONFIDENCE) / 2) * spread
    return Estimate((won - lost) / num, float(centre - reach), float(centre + reach))


def ratio_of_sums(numerators: np.ndarray, denominators: np.ndarray) -> Estimate | None:
    """The ratio of two sums over the same groups of images, ``(N,)`` each, with its interval.

    The groups are taken as independent draws; the ratio's variance is that of its linearisation
    (Cochran 1977, Sampling Techniques, eq. 6.13), and the quantile Student's. With fewer than four
    groups there is no interval worth the name.

    >>> ratio_of_sums(np.array([1.0, 1.0, 1.0, 1.0]), np.array([4.0, 4.0, 4.0, 4.0]))
    Estimate(value=0.25, low=0.25, high=0.25)
    """
    num, total = len(numerators), float(denominators.sum())
    if num < 4 or not total > 0:
        return None
    ratio = float(numerators.sum()) / total
    residuals = numerators - ratio * denominators
    spread = np.sqrt(num / (num - 1) * float(np.square(residuals).sum())) / total
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, num - 1) * spread)
    return Estimate(ratio, max(0.0, ratio - reach), ratio + reach)
