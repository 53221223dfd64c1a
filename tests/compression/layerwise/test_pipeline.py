"""Models pruned and decomposed from data, layer by layer."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import decompose
from decompose.compression.layerwise.pipeline import LayerSpec, compress_layerwise
from decompose.compression.layerwise.sampling import Sampler
from decompose.layers.forward import evaluating
from decompose.layers.modules import DecomposedLayer
from decompose.models.conversion import plan_of
from decompose.models.serialization import load, save
from decompose.utils.errors import DecomposeError
from tests.compression.layerwise.test_partial_model import X, make_model


def error(model: nn.Module, small: nn.Module) -> float:
    found = decompose.compare(model, small, X).output_error
    assert found is not None
    return found


def compressed(model: nn.Module, **what: float) -> nn.Module:
    specs = {name: LayerSpec(**what) for name in ("0", "4", "6")}  # type: ignore[arg-type]
    return compress_layerwise(specs, model, Sampler(model, X, list(specs)))


@pytest.mark.parametrize("what", ["spatial", "channel"])
def test_the_model_errs_less_with_rank(what: str) -> None:
    model = make_model()
    errors = [error(model, compressed(model, **{what: rank})) for rank in (1, 3, 6)]
    assert all(a > b for a, b in pairwise(errors))


@pytest.mark.parametrize("what", ["spatial", "channel"])
def test_data_help(what: str) -> None:
    model = make_model()
    free = decompose.apply(decompose.plan(model, X, method=what, rank=3), model)
    assert error(model, compressed(model, **{what: 3})) < 0.8 * error(model, free)


def test_later_layers_make_good_what_earlier_ones_lost() -> None:
    model = make_model()
    both = compressed(model, channel=3)
    alone = make_model()
    for name in ("0", "4", "6"):
        sampler = Sampler(model, X, [name])
        small = compress_layerwise({name: LayerSpec(channel=3)}, model, sampler)
        setattr(alone, name, small.get_submodule(name))
    assert error(model, both) < error(model, alone)


def test_decoupling_comes_last_and_only_where_it_saves() -> None:
    small = compressed(make_model(), spatial=9, channel=5, energy=0.6)
    layer = small.get_submodule("4")
    assert isinstance(layer, DecomposedLayer)
    assert layer.choice.label == "spatial+pw_dw+channel+pw_dw"
    alone = compressed(make_model(), energy=0.6)
    assert plan_of(alone).layers["4"].method == "pw_dw"
    exact = compressed(make_model(), energy=1.0)
    assert not plan_of(exact).layers


@pytest.mark.filterwarnings("ignore:0. its inputs are not pruned")
@pytest.mark.parametrize(
    "what", [{"num_inputs": 3}, {"spatial": 3}, {"channel": 3}, {"energy": 0.6}]
)
def test_nothing_is_shared_with_the_original(what: dict[str, float]) -> None:
    model = make_model()
    small = compressed(model, **what)
    storages = (
        {tensor.untyped_storage().data_ptr() for tensor in each.state_dict().values()}
        for each in (model, small)
    )
    assert not set.intersection(*storages)


class InPasses(Sampler):
    """The same positions, without the short cut of one pass for all layers."""

    @property
    def batch(self) -> None:
        """As if there were several."""
        return None


def test_one_pass_does_what_a_pass_for_each_layer_does() -> None:
    model = make_model()
    specs = {
        "0": LayerSpec(channel=4),
        "4": LayerSpec(num_inputs=7, spatial=9, channel=5, energy=0.9),
        "6": LayerSpec(num_inputs=5, spatial=6),
    }
    assert Sampler(model, X, ["0"], batch_size=16).batch is None
    kinds = (Sampler, InPasses)
    samplers = [kind(model, X, list(specs), batch_size=len(X)) for kind in kinds]
    assert samplers[0].batch is not None
    one, each = (compress_layerwise(specs, model, sampler) for sampler in samplers)
    with evaluating(one, each):
        torch.testing.assert_close(one(X), each(X), atol=1e-4, rtol=1e-4)


def test_nothing_to_do_is_the_model_itself() -> None:
    model = make_model()
    small = compress_layerwise({"4": LayerSpec()}, model, Sampler(model, X, ["4"]))
    with evaluating(small):
        assert torch.equal(small(X), model(X))


def test_layers_that_cannot_be_decomposed_are_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.ReLU(), nn.Conv2d(6, 4, 3)).eval()
    sampler = Sampler(model, X, ["0"])
    with pytest.raises(DecomposeError, match="layer 0 cannot be decomposed: it has groups"):
        compress_layerwise({"0": LayerSpec(channel=2)}, model, sampler)
    with pytest.raises(DecomposeError, match="layer 1: there is no such dense layer"):
        compress_layerwise({"1": LayerSpec(channel=2)}, model, sampler)


def test_what_keeps_its_channels_can_be_saved_as_any_other(tmp_path) -> None:
    model = make_model()
    small = compressed(model, spatial=5, channel=4, energy=0.8)
    save(small, tmp_path / "small.safetensors")
    again = load(tmp_path / "small.safetensors", model)
    with evaluating(again):
        torch.testing.assert_close(again(X), small(X))
