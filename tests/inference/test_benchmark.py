"""Timing in turns. Nothing here depends on how fast the machine is."""

import pytest
import torch

import decompose
from decompose.inference.benchmark import Benchmark, Latency, time_side_by_side
from decompose.inference.engines import Eager, OnnxRuntime
from decompose.utils.errors import DecomposeError
from tests.support.strategies import Mixed

X = torch.randn(1, 3, 32, 32)


def test_every_network_is_timed_in_every_engine_and_left_as_it_was() -> None:
    model = Mixed().train()
    small = decompose.apply(decompose.plan(model, X, rank=2), model)
    timed = time_side_by_side(
        {"dense": model, "small": small},
        X,
        {"eager": Eager(), "onnxruntime": OnnxRuntime()},
        batch_sizes=(1, 3),
        num_rounds=2,
        num_threads=1,
        layers=True,
    )
    whole = [latency for latency in timed.latencies if not latency.layer]
    assert [(latency.engine, latency.batch_size, latency.name) for latency in whole] == [
        (engine, size, name)
        for engine in ("eager", "onnxruntime")
        for size in (1, 3)
        for name in ("dense", "small")
    ]
    assert all(latency.latency_ms > 0 for latency in timed.latencies)
    assert whole[0].macs > whole[1].macs
    assert (timed.input_shape, timed.num_rounds, timed.num_threads) == ((3, 32, 32), 2, 1)
    assert set(timed.versions) == {"eager", "onnxruntime"}
    layers = {latency.layer for latency in timed.latencies} - {""}
    assert layers == {"blocks.0.0", "blocks.1.0", "heads.mask", "grouped"}
    assert len(timed.layer_table().rows) == len(layers) * 4
    assert model.training
    assert model.stem.weight.is_contiguous()


def test_ratios_are_to_the_first_in_the_same_engine() -> None:
    latencies = (
        Latency("dense", "eager", 1, 30.0, 1.0, 4000),
        Latency("small", "eager", 1, 20.0, 2.0, 1000),
        Latency("dense", "onnxruntime", 1, 10.0, 1.0, 4000),
        Latency("small", "onnxruntime", 1, 2.5, 2.0, 1000),
    )
    timed = Benchmark(latencies, (3, 8, 8), 7, 2, "a machine", {"eager": "2.0"})
    assert Benchmark.from_dict(timed.to_dict()) == timed
    assert [list(row)[-3:] for row in timed.table().rows] == [
        ["1.00", "1.00", "100%"],
        ["4.00", "1.50", "38%"],
        ["1.00", "1.00", "100%"],
        ["4.00", "4.00", "100%"],
    ]
    assert not timed.layer_table().rows


@pytest.mark.parametrize("options", [{"num_rounds": 0}, {"num_threads": 0}, {"batch_sizes": (0,)}])
def test_numbers_that_are_not_positive(options: dict) -> None:
    with pytest.raises(DecomposeError, match="1 or more"):
        time_side_by_side({"a": Mixed()}, X, {"eager": Eager()}, **options)
