"""Layers are shown what passes from the start show, in any order, at any bound of memory."""

import pytest
import torch
from torch import nn

from decompose.layers.discovery import find_layers
from decompose.layers.hooks import calls_until
from decompose.layers.stepwise_calls import StepwiseCalls
from decompose.layers.survey import survey
from tests.support.models import Remembering
from tests.support.strategies import Mixed

BATCHES = [torch.randn(1, 3, 24, 24) for _ in range(3)]


@pytest.mark.parametrize("most_bytes", [0, 60_000, 2**30])
@pytest.mark.parametrize("kind", [Mixed, Remembering])
@pytest.mark.parametrize("is_backwards", [False, True])
def test_layers_are_shown_what_passes_from_the_start_show(
    kind: type[nn.Module], most_bytes: int, is_backwards: bool
) -> None:
    model = kind().eval()
    layers, num_calls = find_layers(model), survey(model, BATCHES[0]).num_calls
    names = list(num_calls)[::-1] if is_backwards else list(num_calls)
    assert max(num_calls.values()) == (2 if kind is Mixed else 1)
    with torch.no_grad(), StepwiseCalls(model, layers, num_calls, BATCHES, most_bytes) as calls:
        for name in names:
            found = list(calls.of(name))
            assert len(found) == len(BATCHES) * num_calls[name]
            expected = [
                (x, *pair)
                for x in BATCHES
                for pair in calls_until(model, layers[name], num_calls[name], x)
            ]
            for call, right in zip(found, expected, strict=True):
                assert call.example is right[0]
                torch.testing.assert_close(call.input, right[1])
                torch.testing.assert_close(call.output, right[2])


def test_all_layers_together_take_one_pass_of_each_batch() -> None:
    model = nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(5))).eval()
    names = {str(index): model[index] for index in range(5)}
    count = 0

    def add(*_: object) -> None:
        nonlocal count
        count += 1

    with torch.no_grad(), StepwiseCalls(model, names, dict.fromkeys(names, 1), BATCHES) as calls:
        model[0].register_forward_hook(add)
        for name in names:
            assert len(list(calls.of(name))) == len(BATCHES)
    assert count == len(BATCHES)
