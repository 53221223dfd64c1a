"""Conv, Chain and Sum as values."""

import pytest
import torch

from decompose.algebra import Chain, Conv, Geometry, Sum, leaves, map_leaves

KERNEL = torch.randn(6, 2, 3, 3)


def test_channels_are_read_from_the_kernel() -> None:
    conv = Conv(KERNEL, geometry=Geometry((1, 1), ((1, 1), (1, 1)), (1, 1)), groups=2)
    assert (conv.out_channels, conv.in_channels, conv.kernel_size) == (6, 4, (3, 3))
    assert conv.num_taps == 9
    assert not conv.is_pointwise
    assert not conv.is_depthwise


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"geometry": Geometry.pointwise(1)}, "does not move over 1 axes"),
        ({"groups": 4}, "do not fall into 4 groups"),
        ({"bias": torch.zeros(5)}, "bias of shape"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Conv(KERNEL, **arguments)


def test_a_geometry_needs_as_many_entries_as_axes() -> None:
    with pytest.raises(ValueError, match="number of axes"):
        Geometry((1, 1), ((0, 0),), (1, 1))
    with pytest.raises(ValueError, match="padding mode"):
        Geometry((1,), ((0, 0),), (1,), "mirror")
    with pytest.raises(ValueError, match="transposed"):
        Geometry((1,), ((0, 1),), (1,), transposed=True)
    for stride, transposed in ((2, False), (1, True)):
        with pytest.raises(ValueError, match="mean over all pixels"):
            Geometry((stride,), ((0, 0),), (1,), transposed=transposed, pooled=True)
    with pytest.raises(ValueError, match="one tap"):
        Conv(torch.randn(2, 3, 3), geometry=Geometry((1,), ((0, 0),), (1,), pooled=True))


def test_an_expression_has_parts() -> None:
    for kind in (Chain, Sum):
        with pytest.raises(ValueError, match="at least one"):
            kind()


def test_leaves_come_in_order_and_can_be_replaced() -> None:
    a, b, c = (Conv(torch.randn(2, 2, 1)) for _ in range(3))
    expression = Sum(Chain(a, b), c)
    assert list(leaves(expression)) == [a, b, c]
    doubled = map_leaves(lambda leaf: Chain(leaf, leaf), expression)
    assert list(leaves(doubled)) == [a, a, b, b, c, c]


def test_without_weights_only_the_shape_is_left() -> None:
    conv = Conv(
        KERNEL, torch.zeros(6), Geometry((1, 1), ((1, 1), (1, 1)), (1, 1))
    ).without_weights()
    assert conv.weight.is_meta
    assert conv.bias is not None
    assert conv.bias.is_meta
    assert conv.weight.shape == KERNEL.shape
