"""The output of a layer in pieces is that of the whole."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import decompose
from decompose.algebra import run
from decompose.layers import cache_blocking
from decompose.layers.cache_blocking import ReceptiveField, run_in_images, run_in_strips
from decompose.layers.discovery import find_layers
from decompose.layers.modules import DecomposedLayer, to_conv
from decompose.methods import METHODS
from tests.support.strategies import Case, conv_cases


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(conv_cases(), st.integers(1, 4), st.data())
def test_images_and_strips_of_every_expression(case: Case, size: int, data: st.DataObject) -> None:
    module, x = case
    conv = to_conv(module)
    able = [method for method in METHODS.values() if method.why_not(conv) is None]
    assume(able)
    method = data.draw(st.sampled_from(able))
    expression = method(conv, data.draw(st.integers(1, min(4, method.max_rank(conv)))))
    expected, reach = run(expression, x), ReceptiveField.of(expression)
    torch.testing.assert_close(
        run_in_images(lambda x: run(expression, x), x, reach, size), expected
    )
    if reach.in_rows:
        given = run_in_strips(lambda x: run(expression, x), x, reach, size)
        torch.testing.assert_close(given, expected)


def test_a_layer_runs_in_pieces_without_gradients_and_as_a_whole_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1))
    x = torch.randn(2, 3, 96, 8).contiguous(memory_format=torch.channels_last)
    small = decompose.apply(decompose.plan(model, x, rank=2), model)
    expected = small(x)
    assert expected.requires_grad
    calls = []
    (layer,) = find_layers(small).values()
    assert isinstance(layer, DecomposedLayer)
    layer.body.register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr(cache_blocking, "_MAP_BYTES", 8 * 8 * 4 * 24)
    with torch.no_grad():
        given = small(x)
    assert len(calls) == 8
    assert given.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(given, expected.detach())
    with torch.no_grad():
        torch.testing.assert_close(small(x.contiguous()), expected.detach())
    assert len(calls) == 8 + 2
    small(x).sum().backward()
    assert len(calls) == 8 + 2 + 1


def test_inputs_without_a_batch_and_mixed_precision_run_as_a_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache_blocking, "_MAP_BYTES", 1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1))
    x = torch.randn(2, 3, 16, 8)
    small = decompose.apply(decompose.plan(model, x, rank=2), model)
    with torch.no_grad():
        torch.testing.assert_close(small(x[0]), small(x)[0])
        with torch.autocast("cpu", torch.bfloat16):
            assert small(x).dtype == torch.bfloat16
    linear = nn.Sequential(nn.Linear(16, 16))
    x = torch.randn(4, 5, 16)
    small = decompose.apply(decompose.plan(linear, x, method="svd", rank=3), linear)
    with torch.no_grad():
        assert small(x).shape == (4, 5, 16)
