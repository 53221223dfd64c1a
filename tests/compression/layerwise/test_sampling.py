"""Activations sampled at the right positions, the same ones each time."""

import pytest
import torch
from torch import nn

import decompose
from decompose.algebra import on_patches, run
from decompose.compression.layerwise.sampling import Sampler
from decompose.layers.modules import to_conv
from decompose.utils.errors import DecomposeError

X = torch.randn(7, 3, 12, 10)


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, stride=2), nn.ReLU(inplace=True), nn.Conv2d(6, 4, (3, 1))
    ).eval()


def test_the_original_makes_of_what_it_sees_what_is_wanted() -> None:
    model = make_model()
    sampler = Sampler(model, X, ["0", "2"], num_positions=5, batch_size=3)
    assert sampler.names == ["0", "2"]
    for name, module in (("0", model[0]), ("2", model[2])):
        samples = sampler.sample(model, name)
        assert isinstance(module, nn.Conv2d)
        assert samples.patches.shape == (35, module.in_channels, *module.kernel_size)
        made = run(on_patches(to_conv(module)), samples.patches).flatten(1)
        torch.testing.assert_close(made, samples.targets, atol=1e-5, rtol=1e-5)


def test_what_is_seen_is_the_smaller_models_and_what_is_wanted_the_originals() -> None:
    model = make_model()
    small = decompose.apply(decompose.plan(model, X, rank={"0": 1}), model)
    sampler = Sampler(model, X, ["2"])
    a, b = sampler.sample(model, "2"), sampler.sample(small, "2")
    assert torch.equal(a.targets, b.targets)
    assert not torch.allclose(a.patches, b.patches)


def test_places_are_seeded_and_differ_within_an_input() -> None:
    model = make_model()
    a, b, c = (Sampler(model, X, ["0"], seed=seed).sample(model, "0") for seed in (0, 0, 1))
    assert torch.equal(a.patches, b.patches)
    assert torch.equal(a.targets, b.targets)
    assert not torch.equal(a.patches, c.patches)
    assert all(len(rows.unique(dim=0)) == 10 for rows in a.targets.split(10))


def test_small_outputs_are_taken_whole() -> None:
    model = make_model()
    samples = Sampler(model, X, ["2"], num_positions=100).sample(model, "2")
    assert len(samples.targets) == 7 * 4 * 5


def test_a_layer_used_twice_is_sampled_in_both_calls() -> None:
    shared = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    samples = Sampler(model, X, ["0"], num_positions=4, batch_size=2).sample(model, "0")
    assert len(samples.targets) == 7 * 4 * 2
    made = run(on_patches(to_conv(shared)), samples.patches).flatten(1)
    torch.testing.assert_close(made, samples.targets, atol=1e-5, rtol=1e-5)


def test_layers_that_scatter_are_refused() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(3, 3, 2))
    with pytest.raises(DecomposeError, match="layer 0: only ordinary convolutions"):
        Sampler(model, X, ["0"])
