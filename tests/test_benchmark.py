"""Timing in turns. Nothing here depends on how fast the machine is."""

import pytest
import torch

import decompose
from decompose.benchmark import Latency, SideBySide, time_side_by_side
from decompose.errors import DecomposeError
from tests.strategies import Mixed

X = torch.randn(2, 3, 32, 32)


def test_every_network_is_timed_and_left_as_it_was() -> None:
    network = Mixed().train()
    small = decompose.apply(decompose.plan(network, X, rank=2), network)
    timed = time_side_by_side({"dense": network, "small": small}, X, num_rounds=2, num_threads=1)
    assert [latency.name for latency in timed.latencies] == ["dense", "small"]
    assert all(latency.latency_ms > 0 for latency in timed.latencies)
    assert timed.latencies[0].macs > timed.latencies[1].macs
    assert (timed.input_shape, timed.num_rounds, timed.num_threads) == ((2, 3, 32, 32), 2, 1)
    assert timed.channels_last
    assert network.training
    assert network.stem.weight.is_contiguous()


def test_the_table_gives_ratios_to_the_first() -> None:
    latencies = (Latency("dense", 30.0, 1.0, 4000), Latency("small", 20.0, 2.0, 1000))
    timed = SideBySide(latencies, (1, 3, 8, 8), 7, 2, False, "cpu")
    assert SideBySide.from_dict(timed.to_dict()) == timed
    first, second = timed.table().rows
    assert list(first)[-3:] == ["1.00", "1.00", "100%"]
    assert list(second)[-3:] == ["4.00", "1.50", "38%"]


@pytest.mark.parametrize("options", [{"num_rounds": 0}, {"num_threads": 0}])
def test_numbers_that_are_not_positive(options: dict) -> None:
    with pytest.raises(DecomposeError, match="1 or more"):
        time_side_by_side({"a": Mixed()}, X, **options)
