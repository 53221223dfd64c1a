"""The predicted error of an output, beside the real one where the two must agree."""

import pytest
import torch
from torch import nn

from decompose.algebra import compose, run
from decompose.compression.covariances import AxisCovariances
from decompose.compression.layer_statistics import LayerStatistics
from decompose.compression.search.error_prediction import OutputError
from decompose.compression.statistics import gather
from decompose.layers.discovery import find_decomposable
from decompose.layers.modules import to_conv
from decompose.methods import get_method


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", ["pw_dw", "dw_pw", "spatial", "channel"])
def test_it_is_exact_for_a_single_place(name: str, groups: int) -> None:
    # With one place of output and nothing behind it, the metric is the identity over the energy.
    model = nn.Conv2d(4, 4, 3, groups=groups, dtype=torch.float64)
    x = torch.randn(400, 4, 3, 3, dtype=torch.float64)
    statistics = gather(model, x, find_decomposable(model)).layers[""]
    expression = get_method(name)(to_conv(model), 1)
    predicted = OutputError(to_conv(model), statistics)(expression)
    with torch.no_grad():
        expected = model(x)
        difference = run(expression, x) - expected
    difference -= difference.mean(0)
    real = float(difference.square().sum() / expected.square().sum())
    assert predicted == pytest.approx(real, rel=0.15)


def test_the_layer_itself_is_without_error() -> None:
    model = nn.Conv2d(3, 8, 3, padding=1)
    x = torch.randn(2, 3, 8, 8)
    error = OutputError(to_conv(model), gather(model, x, find_decomposable(model)).layers[""])
    assert error(to_conv(model)) == 0
    method = get_method("dw_pw")
    errors = [error(method(to_conv(model), rank)) for rank in range(1, 9)]
    assert errors == sorted(errors, reverse=True)


def test_a_dead_input_costs_nothing() -> None:
    model = nn.Conv2d(3, 8, 3)
    statistics = gather(model, torch.ones(2, 3, 8, 8), find_decomposable(model)).layers[""]
    assert OutputError(to_conv(model), statistics)(get_method("pw_dw")(to_conv(model), 1)) < 1e-9


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", ["pw_dw", "dw_pw", "spatial", "channel", "tucker"])
def test_whitened_truncations_are_measured_where_they_are(name: str, groups: int) -> None:
    conv = to_conv(nn.Conv2d(4, 6, 3, groups=groups))
    method = get_method(name)
    if method.why_not(conv) is not None:
        return
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=groups), nn.ReLU(), nn.Conv2d(6, 3, 3))
    mixing = torch.randn(4, 4)
    x = torch.einsum("nihw,ij->njhw", torch.randn(16, 4, 12, 12), mixing)
    statistics = gather(model, x, find_decomposable(model)).layers["0"]
    whitening = AxisCovariances.of_patches(conv, statistics).whitening()
    error, plain = OutputError(conv, statistics, whitening), OutputError(conv, statistics)
    channels = whitening.reads_channels(method(conv.without_weights(), 2))
    made = method(whitening.into(conv, channels=channels), 2)
    expected = plain(whitening.back(made, channels=channels))
    assert expected > 0
    assert error(made, channels=channels) == pytest.approx(expected, rel=1e-3)
    outlines = [method(conv.without_weights(), rank) for rank in (1, 2)]
    if groups == 1:
        assert error.of_truncations(method.prepare_quickly(conv)(2), outlines) == pytest.approx(
            [error(method.prepare_quickly(conv)(rank)) for rank in (1, 2)], rel=1e-3
        )


@pytest.mark.parametrize("num_gradients", [6, 400])
def test_a_metric_of_few_gradients_is_compressed_without_a_difference(num_gradients: int) -> None:
    conv = to_conv(nn.Linear(20, 320))
    gradients = torch.randn(num_gradients, 320)
    metric = (gradients.mT @ gradients)[None]
    statistics = LayerStatistics(100, torch.zeros(1, 20), torch.eye(20)[None], metric)
    made = get_method("svd")(conv, 3)
    difference = (compose(made).weight - conv.weight).double()
    expected = float((metric[0].double() @ difference @ difference.mT).trace())
    assert OutputError(conv, statistics)(made) == pytest.approx(expected, rel=1e-3)
