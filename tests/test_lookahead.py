"""What is held of the original is what it writes."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from decompose.layers import calls_until, evaluating, find_originals, trace_shapes
from decompose.lookahead import Lookahead
from decompose.modules import to_conv
from decompose.refitting import Targets
from tests.strategies import Mixed
from tests.test_statistics import Twice

INPUTS = torch.randn(5, 3, 24, 24).split(1)


class Counting(nn.Module):
    """Counts the passes of a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.passes = network, 0

    def forward(self, x: Tensor) -> Tensor:
        """What the network gives."""
        self.passes += 1
        return self.network(x)


def shuffled() -> Iterator[Tensor]:
    return (INPUTS[index] for index in torch.randperm(len(INPUTS)).tolist())


@pytest.mark.parametrize("most_bytes", [0, 40_000, 1 << 30])
@pytest.mark.parametrize("build", [Mixed, Twice])
def test_it_knows_what_each_layer_writes(build: type[nn.Module], most_bytes: int) -> None:
    network = build().eval()
    calls = {name: len(shapes) for name, shapes in trace_shapes(network, INPUTS[0]).items()}
    originals = {name: find_originals(network)[name] for name in calls}
    with evaluating(network):
        lookahead = Lookahead(network, originals, calls, shuffled, most_bytes)
        for name, layer in originals.items():
            for x in (*shuffled(), torch.randn(1, 3, 24, 24)):
                expected = calls_until(network, layer, calls[name], x)
                found = lookahead.targets(name, x)
                assert len(found) == calls[name]
                for (_, output), targets in zip(expected, found, strict=True):
                    wanted = Targets.of(to_conv(layer), output)
                    assert targets.step == wanted.step
                    assert torch.equal(targets.rows, wanted.rows)


class Switched(nn.Module):
    """Takes a number that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor, factor: float) -> Tensor:
        """``(batch, 3, H, W)`` to ``(batch, 3, H - 2, W - 2)``."""
        return self.layer(factor * x)


def test_inputs_are_told_apart_by_all_that_they_hold() -> None:
    network = Switched()
    inputs = [(INPUTS[0], factor) for factor in (1.0, 2.0)] + [(INPUTS[0].flip(-1), 1.0)]
    lookahead = Lookahead(network, find_originals(network), {"layer": 1}, lambda: inputs)
    with torch.no_grad():
        for x, factor in inputs:
            (found,) = lookahead.targets("layer", (x, factor))
            wanted = Targets.of(to_conv(network.layer), network(x, factor))
            torch.testing.assert_close(found.rows, wanted.rows)


def test_one_pass_serves_all_layers_where_there_is_room() -> None:
    network = Counting(nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(4))))
    originals = find_originals(network)
    for most_bytes, passes in ((1 << 30, 1), (0, 4)):
        network.passes = 0
        calls = dict.fromkeys(originals, 1)
        lookahead = Lookahead(network, originals, calls, lambda: INPUTS, most_bytes)
        for name in originals:
            for x in INPUTS:
                lookahead.targets(name, x)
        assert network.passes == passes * len(INPUTS)
