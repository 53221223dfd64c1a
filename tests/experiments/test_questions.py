"""What the newcomers' questions rest on: equal sizes, one term's bounds, data that can be made again."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

import decompose
from decompose.layers.costs import count_params

QUESTIONS = Path(__file__).parents[2] / "experiments" / "questions"


def script(path: str) -> ModuleType:
    """A module of an experiment, imported by the tests that need it only."""
    return import_module("experiments.questions." + path.replace("/", "."))


def test_networks_of_equal_weights_are_as_near_as_whole_channels_allow() -> None:
    models = script("cost/networks")
    regular = models.Design(separable=False, width=16, depth=2)
    separable = models.Design(separable=True, width=16, depth=2)
    many, few = models.num_params(regular), models.num_params(separable)
    assert many > 4 * few
    for fitted, params in (
        (models.as_wide(separable, many), many),
        (models.as_deep(separable, many), many),
        (models.as_wide(regular, few), few),
    ):
        assert models.num_params(fitted) == pytest.approx(params, rel=0.12)


def test_a_separable_network_is_as_large_as_one_term_of_the_regular_one() -> None:
    models = script("cost/networks")
    regular = models.build(models.Design(separable=False, width=8, depth=2))
    separable = models.build(models.Design(separable=True, width=8, depth=2))
    x = torch.zeros(1, 1, 28, 28)
    plan = decompose.plan(regular, x, method="dw_pw", rank=1, skip=["stem"])
    assert count_params(decompose.apply(plan, regular)) == count_params(separable)
    assert separable(x).shape == regular(x).shape == (1, models.CLASSES)


def test_one_term_is_one_pattern_times_a_weight_a_channel() -> None:
    one_term = script("why/one_term")
    edge = torch.tensor([[1.0, 0.0, -1.0]] * 3)
    scaled = torch.stack([edge, -2 * edge, 0 * edge])
    term = one_term.best_term(scaled)
    torch.testing.assert_close(term.kernel.float(), scaled)
    assert term.error == pytest.approx(0, abs=1e-12)
    assert one_term.best_term(torch.stack([edge, edge.T])).error == pytest.approx(0.5)


@pytest.mark.parametrize("path", ["only_images/signals", "only_images/volumes"])
def test_data_can_be_made_again(path: str) -> None:
    module = script(path)
    make = getattr(module, f"make_{path.rpartition('/')[2]}")
    inputs, labels = make(64, 0)
    again, _ = make(64, 0)
    other, _ = make(64, 1)
    torch.testing.assert_close(inputs, again)
    assert not torch.equal(inputs, other)
    assert inputs.isfinite().all()
    assert set(labels.tolist()) == set(range(len(module.CLASSES)))
