"""What is held of the original is what it writes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from decompose.compression.reconstruction.last_factors import Targets
from decompose.compression.reconstruction.target_cache import TargetCache
from decompose.layers.costs import trace_shapes
from decompose.layers.discovery import find_decomposable
from decompose.layers.forward import evaluating
from decompose.layers.hooks import calls_until
from decompose.layers.modules import to_conv
from decompose.utils.batches import Example
from tests.compression.test_statistics import Twice
from tests.support.strategies import Mixed

INPUTS = torch.randn(5, 3, 24, 24).split(1)


def shuffled() -> Iterator[Tensor]:
    return (INPUTS[index] for index in torch.randperm(len(INPUTS)).tolist())


def lookahead_of(network: nn.Module, example: Example, **options: Any) -> TargetCache:
    calls = {name: len(shapes) for name, shapes in trace_shapes(network, example).items()}
    originals = find_decomposable(network)
    return TargetCache(network, {name: originals[name] for name in calls}, calls, **options)


def require_right(lookahead: TargetCache, network: nn.Module, name: str, x: Example) -> None:
    layer = find_decomposable(network)[name]
    found = lookahead.targets(name, x)
    expected = calls_until(network, layer, len(found), x)
    assert len(found) == len(expected) > 0
    for (_, output), targets in zip(expected, found, strict=True):
        wanted = Targets.of(to_conv(layer), output)
        assert targets.strides == wanted.strides
        assert torch.equal(targets.rows, wanted.rows)


@pytest.mark.parametrize("most_bytes", [0, 40_000, 1 << 30])
@pytest.mark.parametrize("build", [Mixed, Twice])
def test_it_knows_what_each_layer_writes(build: type[nn.Module], most_bytes: int) -> None:
    network = build().eval()
    lookahead = lookahead_of(network, INPUTS[0], most_bytes=most_bytes)
    with evaluating(network):
        for name in trace_shapes(network, INPUTS[0]):
            for x in (*shuffled(), torch.randn(1, 3, 24, 24)):
                require_right(lookahead, network, name, x)


class Counting(nn.Module):
    """Four convolutions, and how many passes reached the first and the last of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(4)))
        self.passes = [0, 0]
        for place, layer in ((0, self.layers[0]), (1, self.layers[3])):
            layer.register_forward_hook(lambda *_, place=place: self._count(place))

    def _count(self, place: int) -> None:
        self.passes[place] += 1

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 3, H, W)`` to ``(batch, 3, H - 8, W - 8)``."""
        return self.layers(x)


def passes(most_bytes: int, *, fresh: bool = False) -> list[int]:
    """Passes for five inputs, which are others for each layer if they are to be fresh."""
    network = Counting()
    lookahead = lookahead_of(network, INPUTS[0], most_bytes=most_bytes)
    network.passes = [0, 0]
    with torch.no_grad():
        for name in find_decomposable(network):
            for x in INPUTS:
                lookahead.targets(name, x + torch.randn(()) if fresh else x)
    return network.passes


def test_one_pass_serves_all_layers_where_there_is_room() -> None:
    assert passes(1 << 30) == [5, 5]


def test_without_room_each_layer_takes_its_own_pass() -> None:
    # The first input of a layer shows that there is none.
    first, last = passes(0)
    assert first == 20
    assert last <= 5 + 3


def test_inputs_that_never_come_again_cost_a_pass_each() -> None:
    assert passes(1 << 30, fresh=True)[0] == 20


@pytest.mark.parametrize("num", [2, 5])
def test_what_is_held_does_not_grow_with_the_inputs(num: int) -> None:
    network, most_bytes = Counting(), 30_000
    lookahead = lookahead_of(network, INPUTS[0], most_bytes=most_bytes)
    with torch.no_grad():
        for x in INPUTS[:num]:
            lookahead.targets("layers.0", x)
            held = [
                t.rows.nbytes for d in lookahead._held.values() for ts in d.values() for t in ts
            ]
            assert sum(held) <= most_bytes


class Switched(nn.Module):
    """Takes something that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor, factor: Any) -> Tensor:
        """``(batch, 3, H, W)`` to ``(batch, 3, H - 4, W - 4)``."""
        scale = factor if isinstance(factor, float) else float(np.asarray(factor).sum())
        return self.second(self.first(scale * x))


def holed(place: int) -> np.ndarray:
    """Ones but for one place, which an abridged text does not show."""
    array = np.ones((64, 64))
    array[32, place] = 7.0
    return array


@pytest.mark.parametrize("factors", [(1.0, 2.0), (holed(32), 3 * holed(32))])
def test_inputs_are_told_apart_by_all_that_they_hold(factors: tuple[Any, Any]) -> None:
    network = Switched()
    inputs = [(INPUTS[0], factor) for factor in factors] + [(INPUTS[0].flip(-1), factors[0])]
    lookahead = lookahead_of(network, inputs[0])
    with torch.no_grad():
        for name in ("first", "second"):
            for x in inputs:
                require_right(lookahead, network, name, x)


class Graph(nn.Module):
    """Mixes nodes along the edges of a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """``(1, nodes, 3)`` and ``(nodes, nodes)``, sparse, to ``(nodes, 2)``."""
        return edges @ self.second(edges @ self.first(x[0]))


def test_sparse_tensors_are_passed_anew() -> None:
    network, x = Graph(), torch.randn(1, 6, 3)
    lookahead = lookahead_of(network, (x, torch.eye(6)))
    with torch.no_grad():
        for name in ("first", "second"):
            for edges in (torch.eye(6).to_sparse(), torch.eye(6).roll(1, 0).to_sparse()):
                require_right(lookahead, network, name, (x, edges))
