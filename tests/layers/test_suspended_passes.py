"""Suspended passes give what plain ones give, whatever runs between their stops."""

import torch
from torch import Tensor, nn

from decompose.layers.discovery import find_layers
from decompose.layers.suspended_passes import (
    SuspendedPass,
    are_independent,
    live_bytes,
    suspending_before,
    suspending_behind,
)
from tests.support.strategies import Mixed


def interleaved(model: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    with torch.no_grad(), suspending_behind(find_layers(model)):
        passes = [SuspendedPass(model, x) for x in inputs]
        while not all(passing.result is not None for passing in passes):
            for passing in passes:
                passing.advance()
        return [passing.result for passing in passes]


def test_passes_that_take_turns_give_what_each_gives_alone() -> None:
    model = Mixed().eval()
    inputs = [torch.randn(1, 3, 24, 24) for _ in range(3)]
    for given, x in zip(interleaved(model, inputs), inputs, strict=True):
        assert torch.equal(given, model(x))


def test_a_layer_that_changed_meanwhile_is_what_runs() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).eval()
    x = torch.randn(4, 2)
    first = model[0]
    assert isinstance(first, nn.Linear)
    with torch.no_grad(), suspending_before({"first": first}):
        suspended = SuspendedPass(model, x)
        stop = suspended.advance()
        assert stop is not None
        assert torch.equal(stop.value, x)
        first.weight.mul_(2)
        assert suspended.advance() is None
        assert torch.equal(suspended.result, model(x))


def test_modes_that_a_model_sets_stay_its_own() -> None:
    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
                return self.layers(x)

    model = Casting().eval()
    x = torch.randn(1, 4)
    with torch.no_grad(), suspending_behind({"0": model.layers[0], "1": model.layers[1]}):
        suspended = SuspendedPass(model, x)
        while suspended.advance() is not None:
            assert not torch.is_grad_enabled()
            assert not torch.is_autocast_enabled("cpu")
    assert suspended.result.dtype == torch.bfloat16
    assert torch.equal(suspended.result, model(x))


def test_a_closed_pass_lets_go() -> None:
    left = []

    class Leaving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.layer(x)
            finally:
                left.append(True)

    model = Leaving()
    with torch.no_grad(), suspending_behind({"": model.layer}):
        suspended = SuspendedPass(model, torch.ones(1, 1))
        suspended.advance()
        suspended.close()
    assert left == [True]
    assert suspended.advance() is None


def test_a_model_that_keeps_its_pass_in_itself_is_known() -> None:
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.kept = x
            return self.second(self.first(x)) + self.kept

    inputs = torch.randn(1, 4), torch.randn(1, 4)
    with torch.no_grad():
        for model, independent in ((Remembering(), False), (Mixed().eval(), True)):
            x = inputs if not independent else tuple(torch.randn(1, 3, 24, 24) for _ in range(2))
            assert are_independent(model, find_layers(model), *x) is independent


def test_bytes_that_a_pass_holds() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 4, 1)).eval()
    for num in (1, 3):
        x = torch.zeros(num, 1, 8, 8)
        with torch.no_grad():
            held = live_bytes(model, {"0": model[0], "1": model[1]}, x)
            before = live_bytes(model, {"0": model[0], "1": model[1]}, x, before=True)
        pixels = 4 * 64 * num
        assert held == {"0": pixels * (1 + 2), "1": pixels * (1 + 2 + 4)}
        assert before == {"0": pixels, "1": pixels * (1 + 2)}
