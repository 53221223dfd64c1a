"""A model beside the smaller one."""

import pytest
import torch
from torch import Tensor, nn

import decompose
from decompose import Choice, DecomposeError, Plan
from decompose.algebra import Deviation
from decompose.evaluation.comparison import Comparison, compare_weights
from tests.support.strategies import Mixed

IMAGES = torch.randn(6, 3, 32, 32)


def pair() -> tuple[Mixed, nn.Module]:
    model = Mixed().eval()
    return model, decompose.apply(Plan({"stem": Choice("pw_dw", 1)}), model)


def test_a_network_does_not_differ_from_itself() -> None:
    model = Mixed().eval()
    comparison = decompose.compare(model, model, IMAGES)
    assert comparison.output_error == comparison.weight_error == 0
    assert comparison.macs.ratio == comparison.params.ratio == 1
    assert comparison.agreement == 1
    assert {layer.method for layer in comparison.layers} == {"dense"}


def test_errors_are_relative_and_squared() -> None:
    model, small = pair()
    comparison = decompose.compare(model, small, IMAGES)
    with torch.no_grad():
        expected, output = model(IMAGES), small(IMAGES)
        stems = model.stem(IMAGES), small.get_submodule("stem")(IMAGES)
    assert comparison.output_error == pytest.approx(
        float((output - expected).square().sum() / expected.square().sum()), rel=1e-4
    )
    layer = comparison.layers[0]
    assert (layer.name, layer.method, layer.rank) == ("stem", "pw_dw", "1")
    assert layer.output_error == pytest.approx(
        float((stems[1] - stems[0]).square().sum() / stems[0].square().sum()), rel=1e-4
    )
    assert comparison.agreement == pytest.approx(
        float((output.argmax(1) == expected.argmax(1)).float().mean())
    )
    assert comparison.num_inputs == 6


def test_an_activation_in_place_does_not_hide_the_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True))
    small = decompose.apply(Plan({"0": Choice("pw_dw", 1)}), model)
    (layer,) = decompose.compare(model, small, IMAGES).layers
    with torch.no_grad():
        outputs = [n.get_submodule("0")(IMAGES) for n in (small, model)]
    assert layer.output_error == pytest.approx(Deviation.between(*outputs).relative, rel=1e-4)


def test_networks_that_are_both_rewritten_are_compared_as_well() -> None:
    model = Mixed().eval()
    first, second = (
        decompose.apply(Plan({"stem": Choice("pw_dw", rank)}), model) for rank in (2, 1)
    )
    comparison = decompose.compare(first, second, IMAGES)
    assert comparison.layers[0].weight_error > 0
    assert comparison.weight_error > 0


def test_another_stride_is_another_network() -> None:
    with pytest.raises(DecomposeError, match="stride, padding or dilation"):
        compare_weights(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3, stride=2), IMAGES)


def test_every_call_of_a_shared_layer_counts() -> None:
    model, small = pair()
    layers = {layer.name: layer for layer in decompose.compare(model, small, IMAGES).layers}
    # Once as blocks.0 and once as heads.edge, at the same size.
    assert layers["blocks.0.0"].macs.before == 2 * layers["blocks.1.0"].macs.before


def test_batches_are_as_good_as_one_tensor() -> None:
    model, small = pair()
    whole = decompose.compare(model, small, IMAGES)
    parts = decompose.compare(model, small, iter(IMAGES.split(1)))
    assert parts.output_error == pytest.approx(whole.output_error, rel=1e-5)
    assert parts.num_inputs == whole.num_inputs


def test_modes_are_restored_and_hooks_removed() -> None:
    model, small = pair()
    model.train()
    decompose.compare(model, small, IMAGES)
    assert model.training
    assert not small.training
    assert not model.stem._forward_hooks


def test_weights_alone_need_no_inputs() -> None:
    model, small = pair()
    comparison = compare_weights(model, small, IMAGES[:1])
    assert comparison.output_error is None
    assert "output" not in str(comparison)
    assert comparison.weight_error > 0


def test_the_record_is_read_back_and_the_table_follows_from_it() -> None:
    model, small = pair()
    for comparison in (
        decompose.compare(model, small, IMAGES),
        compare_weights(model, small, IMAGES),
    ):
        again = Comparison.from_dict(comparison.to_dict())
        assert again == comparison
        assert str(again) == str(comparison)
    table = decompose.compare(model, small, IMAGES).table()
    assert [row[0] for row in table.rows][:2] == ["stem", "blocks.0.0"]
    assert all(len(row) == len(table.columns) for row in [*table.rows, table.total or ()])


class Pair(nn.Module):
    """Returns two tensors and a word."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, str]:
        """``(batch, 3, H, W)`` to two of the same."""
        return self.conv(x), x, "word"


def test_what_cannot_be_compared() -> None:
    model, small = pair()
    with pytest.raises(DecomposeError, match="no inputs"):
        decompose.compare(model, small, IMAGES[:0])
    with pytest.raises(DecomposeError, match="it lacks stem, blocks"):
        decompose.compare(model, nn.Conv2d(3, 3, 3), IMAGES)
    other = Pair()
    other.conv = nn.Conv2d(3, 3, 5)
    with pytest.raises(DecomposeError, match="conv differs: its kernel has shape"):
        decompose.compare(Pair(), other, IMAGES)
    with pytest.raises(DecomposeError, match="must be tensors, not a str"):
        decompose.compare(model, small, ["picture.png"])
    with pytest.raises(DecomposeError, match="returns a str"):
        decompose.compare(Pair(), Pair(), IMAGES)
