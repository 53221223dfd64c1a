"""Blockwise reconstruction lowers errors that it did not train on, and never raises them."""

import pytest
import torch
from torch import Tensor, nn

import decompose
from decompose import DecomposeError
from decompose.models.conversion import set_forms_
from decompose.training.blockwise import reconstruct_, reconstruction_table
from tests.support.strategies import Mixed
from tests.training.cases import models
from tests.utils.test_batches import Tokens

IMAGES = torch.randn(24, 3, 8, 8)


def output_error(small: nn.Module, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        wanted = model(x)
        return float((small(x) - wanted).square().sum() / wanted.square().sum())


def test_errors_of_layers_and_of_the_output_fall() -> None:
    original, small = models()
    before = output_error(small, original, torch.randn(16, 3, 8, 8))
    found = reconstruct_(small, original, IMAGES, steps=60, learning_rate=0.01)
    assert [layer.name for layer in found] == ["features.0", "features.3"]
    assert all(layer.after < layer.before for layer in found)
    assert output_error(small, original, torch.randn(16, 3, 8, 8)) < before
    assert "features.3" in str(reconstruction_table(found))


def test_steps_that_make_it_worse_are_not_taken() -> None:
    original, small = models()
    x = torch.randn(4, 3, 8, 8)
    before = small(x)
    found = reconstruct_(small, original, IMAGES, steps=8, learning_rate=30.0)
    assert all(layer.after == layer.before for layer in found)
    # Balanced, but otherwise as it was.
    torch.testing.assert_close(small(x), before)


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_layers_called_twice_in_other_shapes_and_forms_are_reconstructed() -> None:
    model = Mixed().eval()
    images = [torch.randn(3, 3, 24, 24), torch.randn(3, 3, 32, 32)]
    small = decompose.apply(decompose.plan(model, images[0], method="dw_pw", rank=1), model)
    set_forms_(small, {"blocks.0.0": "merged"})
    found = reconstruct_(small, model, images, steps=10)
    assert {"stem", "blocks.0.0", "heads.mask", "grouped"} <= {layer.name for layer in found}
    assert all(layer.after <= layer.before for layer in found)


def test_fully_connected_layers_on_many_rows_are_reconstructed() -> None:
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5)).eval()
    # Some inputs matter more than the weights alone show.
    x = torch.randn(24, 6, 12) * torch.linspace(0.1, 3, 12)
    small = decompose.apply(decompose.plan(model, x, method="svd", rank=3), model)
    found = reconstruct_(small, model, x, steps=100, learning_rate=0.01)
    assert found[0].name == "0"
    assert found[0].after < found[0].before


def test_a_seed_repeats_it_bit_for_bit() -> None:
    states = []
    for _ in range(2):
        original, small = models()
        reconstruct_(small, original, IMAGES, steps=6)
        states.append(small.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_one_input_is_too_few() -> None:
    original, small = models()
    with pytest.raises(DecomposeError, match="needs two inputs"):
        reconstruct_(small, original, IMAGES[:1])


def test_inputs_by_name_are_taken() -> None:
    model, tokens = Tokens().eval(), torch.randint(10, (12, 9))
    plan = decompose.plan(model, {"ids": tokens}, method="channel", rank=2)
    found = [
        reconstruct_(decompose.apply(plan, model), model, images, steps=20, learning_rate=0.01)
        for images in ({"ids": tokens}, [((tokens,),)])
    ]
    assert found[0] == found[1]
    assert found[0][0].after < found[0][0].before
