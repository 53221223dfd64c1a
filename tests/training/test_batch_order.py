"""Every process knows which images come next, and no two know different ones."""

import pytest

from decompose.training.batch_order import BatchOrder
from decompose.utils.errors import DecomposeError
from decompose.utils.random import draw_seed


def test_an_epoch_visits_each_image_once_in_an_order_of_its_own() -> None:
    order = BatchOrder(24, 4, seed=3)
    epochs = [[p for step in range(order.steps) for p in order.batch(e, step)] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(24))
    assert epochs[0] != epochs[1]
    assert epochs[0] != [p for step in range(6) for p in BatchOrder(24, 4, seed=4).batch(0, step)]


@pytest.mark.parametrize(("processes", "parts"), [(1, 1), (2, 1), (2, 3), (1, 6)])
def test_processes_and_parts_make_up_the_batch(processes: int, parts: int) -> None:
    order = BatchOrder(50, 12, seed=0)
    shares = [list(order.share(2, 1, p, processes, parts)) for p in range(processes)]
    for step in range(1, order.steps):
        seen = []
        for share in shares:
            for part in share[(step - 1) * parts : step * parts]:
                assert len(part) == 12 // processes // parts
                seen += part
        assert seen == order.batch(2, step)


def test_what_does_not_go_evenly_is_refused() -> None:
    with pytest.raises(DecomposeError, match="a batch takes 32 images, and there are 20"):
        BatchOrder(20, 32, seed=0)
    with pytest.raises(DecomposeError, match="cannot be split into 3 processes"):
        list(BatchOrder(20, 4, seed=0).share(0, 0, 0, 3, 1))


def test_seeds_of_neighbours_are_unrelated() -> None:
    seeds = {draw_seed(0, epoch, place) for epoch in range(10) for place in range(100)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert draw_seed(1, 2) != draw_seed(12) != draw_seed(2, 1)
