"""A copy of a model runs its own layers, by the functions that it holds as well."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import decompose
from decompose.layers.discovery import copied, find_layers

X = torch.randn(2, 3, 8, 8)


class Closed(nn.Module):
    """Runs its second layer through a function that it holds."""

    def __init__(self, hold: Callable[[Closed], None]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.act = nn.ReLU()
        self.block: Callable[[Tensor], Tensor] = nn.Identity()
        hold(self)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 3, H, W)`` to ``(batch, 4, H - 4, W - 4)``."""
        return self.act(self.block(self.a(x)))


def hold_lambda(model: Closed) -> None:
    del model.block
    model.block = lambda x: model.b(x)


def hold_default(model: Closed) -> None:
    del model.block
    model.block = lambda x, layer=model.b: layer(x)


def hold_keyword(model: Closed) -> None:
    def run(x: Tensor, *, layer: nn.Module = model.b) -> Tensor:
        return layer(x)

    del model.block
    model.block = run


def hold_nested(model: Closed) -> None:
    def inner(x: Tensor) -> Tensor:
        return model.b(x)

    del model.block
    model.block = partial(lambda run, x: run(x), lambda x: inner(x))


def hold_list(model: Closed) -> None:
    vars(model)["steps"] = [{"run": (lambda x: model.b(x),)}]
    del model.block
    model.block = lambda x: vars(model)["steps"][0]["run"][0](x)


def hold_method(model: Closed) -> None:
    del model.block
    model.block = model.b.forward


def hold_hook(model: Closed) -> None:
    model.act.register_forward_hook(lambda _, __, output: model.b(output))


HOLDERS = [
    hold_lambda,
    hold_default,
    hold_keyword,
    hold_nested,
    hold_list,
    hold_method,
    hold_hook,
]


@pytest.mark.parametrize("hold", HOLDERS)
def test_a_copy_runs_its_own_layers(hold: Callable[[Closed], None]) -> None:
    model = Closed(hold).eval()
    expected = model(X)
    twin = copied(model)
    for layer in find_layers(model).values():
        nn.init.constant_(layer.get_parameter("weight"), float("nan"))
    assert torch.equal(twin(X), expected)


@pytest.mark.parametrize("hold", HOLDERS)
def test_the_rewritten_layer_is_run_and_loaded(
    hold: Callable[[Closed], None], tmp_path: Path
) -> None:
    model = Closed(hold).eval()
    small = decompose.apply(decompose.plan(model, X, method="spatial", rank=1), model)
    comparison = decompose.compare(model, small, X)
    assert comparison.output_error is not None
    assert comparison.output_error > 1e-3
    decompose.save(small, tmp_path / "a.safetensors")
    again = decompose.load(tmp_path / "a.safetensors", Closed(hold))
    assert torch.equal(again(X), small(X))


def test_what_a_closure_holds_besides_is_shared() -> None:
    seen: list[object] = []
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    handle = model[1].register_forward_hook(lambda _, __, output: seen.append(output))
    copied(model)(X)
    assert len(seen) == 1
    handle.remove()


HELD: dict[str, nn.Module] = {}


def hold_global(model: Closed) -> None:
    HELD["model"] = model
    del model.block
    model.block = lambda x: HELD["model"].get_submodule("b")(x)


def test_a_layer_that_a_global_function_calls_stays_dense() -> None:
    model = Closed(hold_global).eval()
    with pytest.warns(UserWarning, match="left dense: b: a function calls it that copies"):
        plan = decompose.plan(model, X, method="spatial", rank=1)
    assert plan.layers.keys() == {"a"}
