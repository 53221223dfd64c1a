"""Time is parted into waiting and running."""

import time
from collections.abc import Iterator

import pytest
import torch

from decompose.data.images import ImageBatch
from decompose.evaluation.throughput import Clock, Throughput


def slow_batches() -> Iterator[ImageBatch]:
    for start in range(3):
        time.sleep(0.02)
        yield ImageBatch((torch.empty(0),), torch.zeros(4), torch.arange(4 * start, 4 * start + 4))


def test_waiting_is_told_from_running() -> None:
    clock = Clock()
    assert clock.read() is None
    for _ in clock.waiting(slow_batches()):
        time.sleep(0.01)
    read = clock.read()
    assert read is not None
    # Sleeps may last longer, so only what holds in any case is asked.
    assert 0 < read.loading < 1
    assert read.pictures_per_s <= 12 / 0.09
    assert read.ready_per_s <= 12 / 0.03
    assert read.pictures_per_s == pytest.approx(read.ready_per_s * (1 - read.loading))


def test_processes_side_by_side() -> None:
    both = Throughput.together([Throughput(10, 20, 0.5), Throughput(30, 40, 0.25)])
    assert both == Throughput(40, 60, 0.375)
    assert str(both).startswith("40.0 images/s; on tensors that lie ready 60.0; 37.5%")
