"""Layers that must stay dense, by their use in a pass and by their kind."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations

import decompose
from decompose.layers.consumers import find_consumers
from decompose.layers.discovery import find_decomposable
from decompose.layers.eligibility import find_quantised, why_not_decomposable
from decompose.utils.errors import DecomposeError

X = torch.randn(2, 8, 12, 12)


class Nosy(nn.Module):
    """Reads weights, and asks for sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(8, 8, 3, padding=1)
        self.read = nn.Conv2d(8, 8, 3, padding=1)
        self.sized = nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1)
        self.typed = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 8, H, W)`` to ``(batch, 8)``."""
        assert self.plain.out_channels == 8
        x = self.plain(x) + F.conv2d(x, self.read.weight, padding=1)
        x = self.sized(x, output_size=[24, 24]).mean((2, 3))
        return self.typed(x.to(self.typed.weight.dtype))


REASONS = {
    "read": "the model reads its weight itself",
    "sized": "the model calls it with more than one input",
    "typed": "the model reads its weight itself",
}


def test_layers_that_the_model_uses_otherwise_stay_dense() -> None:
    model = Nosy().train()
    names = [name for name, _ in model.named_modules()]
    assert find_consumers(model, X, find_decomposable(model)).weights == REASONS
    assert [name for name, _ in model.named_modules()] == names
    assert model.training


def test_such_layers_are_left_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="left dense: read: the model reads its weight itself"):
        plan = decompose.plan(Nosy(), X, method="pw_dw", rank=1)
    assert list(plan.layers) == ["plain"]
    assert plan.dense == REASONS
    small = decompose.apply(plan, Nosy())
    assert small(X).shape == (2, 8)


class Caching(nn.Module):
    """Reads a weight at its first input only, for its dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 3)
        self.cached: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 8, H, W)`` to ``(batch, 8, H - 2, W - 2)``."""
        if self.cached is None:
            self.cached = torch.ones(1, dtype=self.layer.weight.dtype)
        return self.layer(x) * self.cached


def test_what_a_pass_does_not_tell_a_rewritten_layer_can_show() -> None:
    model = Caching()
    model(X)
    small = decompose.apply(decompose.plan(model, X, method="pw_dw", rank=8), model)
    fresh = decompose.apply(decompose.plan(model, X, method="pw_dw", rank=8), Caching())
    fresh.load_state_dict(small.state_dict())
    torch.testing.assert_close(fresh(X), small(X))


def test_an_encoder_of_torch_stays_whole() -> None:
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    tokens = torch.randn(1, 5, 8)
    with pytest.warns(UserWarning, match="linear1: the model reads its weight itself"):
        plan = decompose.plan(encoder, tokens, method="svd", rank=1)
    assert not plan.layers


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize(
    "norm",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
    ],
)
def test_reparametrised_layers_are_left_with_a_word(norm: object) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3), norm(nn.Conv2d(8, 8, 3)))  # type: ignore[operator]
    plan = decompose.Plan({"0": decompose.Choice("pw_dw", 2)})
    small = decompose.apply(plan, model)
    assert torch.equal(small[1](X), model[1](X))  # type: ignore[index]
    found = decompose.plan(model, X, method="pw_dw", rank=2)
    assert list(found.layers) == ["0"]
    assert found.dense["1"] in ("it has hooks", "its weight is parametrised")


def test_a_lazy_layer_is_named() -> None:
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.Conv2d(8, 8, 3))
    with pytest.raises(DecomposeError, match="layer 0: gets its sizes from its first input"):
        decompose.plan(model, X, method="pw_dw", rank=1)
    model(X)
    assert decompose.plan(model, X, method="pw_dw", rank=1).layers.keys() == {"0", "1"}


def test_torchscript_and_exported_programs_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()).eval()
    exported = torch.export.export(model, (X,))
    with pytest.raises(
        DecomposeError, match=r"ExportedProgram is no torch.nn.Module; .*exported from"
    ):
        decompose.plan(exported, X, macs=0.5)  # type: ignore[arg-type]
    with pytest.raises(
        DecomposeError, match=r"is a graph: give the module that it was exported from"
    ):
        decompose.plan(exported.module(), X, macs=0.5)
    with pytest.warns(match="is deprecated"):
        scripted = torch.jit.trace(model, X)
    with pytest.raises(DecomposeError, match="is TorchScript, whose layers cannot be exchanged"):
        decompose.plan(scripted, X, macs=0.5)  # type: ignore[arg-type]


def test_a_symbolic_graph_is_a_module_like_others() -> None:
    model = fx.symbolic_trace(nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()))
    small = decompose.apply(decompose.plan(model, X, method="pw_dw", rank=9 - 1), model)
    torch.testing.assert_close(small(X), model(X))


def test_quantised_layers_are_told() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(800, 4)).eval()
    with pytest.warns(match="deprecated"):
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert find_quantised(quantised) == {"2": "its weights are quantised (Linear)"}
    plan = decompose.plan(quantised, X, method="pw_dw", rank=1)
    assert plan.dense == find_quantised(quantised)
    assert decompose.apply(plan, quantised)(X).shape == (2, 4)
    with pytest.raises(DecomposeError, match="no layer to decompose; 0 and others are quantised"):
        decompose.plan(nn.Sequential(quantised[2]), torch.zeros(1, 800), macs=0.5)


def test_weights_of_an_odd_kind_are_told() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, dtype=torch.complex64))
    assert why_not_decomposable(model[0]) is None  # type: ignore[arg-type]
    assert "torch.complex64" in str(why_not_decomposable(model[1]))  # type: ignore[arg-type]
