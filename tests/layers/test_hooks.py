"""Layers observed, interrupted and replaced during a pass, and as they were after it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from decompose.layers.hooks import calls_until, hooked, observe_until, observing, replacing

X = torch.randn(2, 3)


class Shared(nn.Module):
    """Calls one layer twice, once by keyword, and a layer after it."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(3, 3)
        self.last = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 3)`` to ``(batch, 1)``."""
        return self.last(self.twice(input=self.twice(x)).relu_())


def test_every_call_is_observed_and_no_hook_is_left() -> None:
    model, seen = Shared(), []
    with observing({"a": model.twice, "b": model.last}, lambda *call: seen.append(call)):
        output = model(X)
    assert [name for name, _, _ in seen] == ["a", "a", "b"]
    assert torch.equal(seen[0][1], X)
    assert torch.equal(seen[2][2], output)
    model(X)
    assert len(seen) == 3


def test_the_result_of_a_hook_replaces_the_output() -> None:
    model = Shared()
    with hooked({"last": model.last}, lambda *call: 2 * call[-1]):
        doubled = model(X)
    assert torch.equal(doubled, 2 * model(X))


@pytest.mark.parametrize("num_calls", [1, 2])
def test_a_pass_ends_after_the_calls_that_are_wanted(num_calls: int) -> None:
    model, ran = Shared(), []
    model.last.register_forward_hook(lambda *_: ran.append(1))
    calls = calls_until(model, model.twice, num_calls, X)
    assert len(calls) == num_calls
    assert not ran
    # The output is kept as it was, though the model goes on to change it in place.
    torch.testing.assert_close(calls[-1][1], model.twice(calls[-1][0]))


def test_a_pass_goes_on_until_the_last_of_several_layers() -> None:
    model, seen = Shared(), []
    layers, num_calls = {"a": model.twice, "b": model.last}, {"a": 1, "b": 1}
    observe_until(model, layers, num_calls, lambda name, *_: seen.append(name), X)
    assert seen == ["a", "b"]


def test_a_replacement_computes_instead_of_the_layer_until_it_ends() -> None:
    model = Shared()
    expected = model(X)
    with replacing(model.last, lambda x: x.sum(1, keepdim=True)):
        inside = model(X)
        with replacing(model.last, lambda x: x[:, :1] * 0):
            assert not model(X).any()
        assert torch.equal(model(X), inside)
    assert torch.equal(model(X), expected)
    assert "forward" not in vars(model.last)
