"""Intervals against figures of their authors, and against draws."""

import numpy as np
import pytest

from decompose.evaluation.confidence_intervals import paired_difference, ratio_of_sums, share


def test_wilsons_interval() -> None:
    # By hand: (p + z2/2n +- z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n), with p = 0.8, n = 10, z = 1.96.
    value, low, high = share(np.arange(10) < 8)
    assert value == 0.8
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


def test_the_difference_of_equal_networks_is_nothing() -> None:
    hits = np.arange(100) % 3 == 0
    value, low, high = paired_difference(hits, hits)
    assert value == 0
    assert low == -high
    assert 0 < high < 0.02


def test_agresti_and_mins_example() -> None:
    # Agresti and Min 2005: 1,600 people asked twice, 86 and 150 changed their minds.
    before = np.concatenate([np.ones(86, bool), np.zeros(150, bool), np.ones(1364, bool)])
    after = np.concatenate([np.zeros(86, bool), np.ones(150, bool), np.ones(1364, bool)])
    value, low, high = paired_difference(before, after)
    assert value == 64 / 1600
    assert (low, high) == (pytest.approx(0.0212, abs=3e-4), pytest.approx(0.0587, abs=3e-4))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(1000):
        before = rng.random(200) < 0.8
        after = np.where(rng.random(200) < 0.1, ~before, before)
        _, low, high = paired_difference(before, after)
        # Of 80 in 100 a tenth is lost, of the others a tenth is won.
        held.append(low <= 0.2 * 0.1 - 0.8 * 0.1 <= high)
    assert 0.93 <= np.mean(held) <= 0.98


def test_a_ratio_of_sums_holds_the_true_one_in_95_of_100_draws() -> None:
    draws = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        whole = draws.uniform(1, 2, 30)
        part = whole * draws.uniform(0.1, 0.3, 30)
        estimate = ratio_of_sums(part, whole)
        assert estimate is not None
        inside += estimate.low <= 0.2 <= estimate.high
    assert 0.92 < inside / 400 < 0.98


def test_three_groups_give_no_interval() -> None:
    assert ratio_of_sums(np.ones(3), np.ones(3)) is None
    assert ratio_of_sums(np.zeros(4), np.zeros(4)) is None
