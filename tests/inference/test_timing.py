"""Calls take turns."""

import torch

from decompose.inference.timing import time_in_turns
from decompose.utils.environment import machine


def test_calls_take_turns_after_a_warm_up() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    timed = time_in_turns(calls, range(3), 1, calls_a_round=1)
    assert order[:2] == ["a", "b"]
    turns = [name for i, name in enumerate(order[2:]) if i == 0 or order[1 + i] != name]
    assert turns == ["a", "b"] * 3
    assert all(time.median_ms >= 0 and time.spread_ms >= 0 for time in timed.values())


def test_a_machine_has_a_name() -> None:
    assert machine(torch.device("cpu"))
