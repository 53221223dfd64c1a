"""Outputs of replayed passes are those of whole passes."""

import pytest
import torch
from torch import Tensor, nn

from decompose.layers.costs import trace_shapes
from decompose.layers.discovery import find_decomposable
from decompose.layers.forward import evaluating
from decompose.layers.hooks import replacing
from decompose.layers.replay import Recording
from tests.compression.test_statistics import Twice
from tests.support.strategies import Mixed

X = torch.randn(2, 3, 16, 16)


@pytest.mark.parametrize("most_bytes", [0, 60_000, 1 << 30])
@pytest.mark.parametrize("build", [Mixed, Twice])
def test_another_layer_changes_what_it_changes_in_a_whole_pass(
    build: type[nn.Module], most_bytes: int
) -> None:
    model = build().eval()
    layers = find_decomposable(model)
    with evaluating(model):
        recording = Recording(model, layers, X, most_bytes)
        assert torch.equal(recording.outputs[0], model(X))
        for name in trace_shapes(model, X):
            original = layers[name].forward
            with replacing(layers[name], lambda x, original=original: 2 * original(x)):
                expected = model(X)
                with recording.until(name):
                    assert torch.equal(model(X), expected)
                    assert torch.equal(model(X), expected)
        assert torch.equal(model(X), recording.outputs[0])


class Counting(nn.Module):
    """Counts the rows that pass through a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 3, H, W)`` to ``(batch, 2, H - 4, W - 4)``."""
        return self.second(self.first(x).relu_())


def test_layers_before_are_not_computed() -> None:
    model = Counting()
    computed = []
    forward = model.first.forward
    with evaluating(model), replacing(model.first, lambda x: computed.append(x) or forward(x)):
        recording = Recording(model, {"first": model.first, "second": model.second}, X)
        computed.clear()
        with recording.until("second"):
            model(X)
        assert not computed
        model(X)
        assert len(computed) == 1
    assert "forward" not in vars(model.first)
