"""Moments added call after call, beside those of all patches at once."""

import torch
from torch import Tensor

from decompose.algebra import Conv
from decompose.compression.input_moments import InputMoments


class Rows(InputMoments):
    """Keeps the rows themselves."""

    is_shifted = True
    thins_pixels = False

    def __init__(self, conv: Conv) -> None:
        super().__init__(conv)
        self.rows: list[Tensor] = []

    def _add_products(self, rows: Tensor) -> None:
        self.rows.append(rows)


def test_calls_add_up_to_the_mean_of_all_rows_that_are_finite() -> None:
    conv = Conv(torch.randn(2, 3))
    moments = Rows(conv)
    x = torch.randn(20, 3, dtype=torch.float64) + 1000
    x[4, 1] = float("nan")
    for part in x.split(4):
        moments.add(part, part[:, :2])
    kept = x[torch.arange(20) != 4]
    assert moments.count == len(kept)
    torch.testing.assert_close(moments.mean()[0, :, 0], kept.mean(0))
    # Shifted rows are small, so that their products lose nothing to rounding.
    assert all(rows.abs().max() < 20 for rows in moments.rows)


def test_a_call_without_finite_rows_adds_nothing() -> None:
    moments = Rows(Conv(torch.randn(2, 3)))
    moments.add(torch.full((4, 3), float("inf")), torch.zeros(4, 2))
    assert moments.count == 0
    assert not moments.rows


def test_the_layers_input_is_left_as_it_was() -> None:
    for conv, x in (
        (Conv(torch.randn(2, 3)), torch.randn(4, 3)),
        (Conv(torch.randn(2, 3, 1, 1)), torch.randn(1, 3, 5, 5)),
        (Conv(torch.randn(2, 3, 3, 3)), torch.randn(2, 3, 5, 5)),
        (Conv(torch.randn(2, 1, 1, 1), groups=2), torch.randn(1, 2, 5, 5)),
    ):
        before = x.clone()
        moments = Rows(conv)
        moments.add(x, x[:, :2])
        moments.add(x, x[:, :2])
        assert torch.equal(x, before)
        torch.testing.assert_close(moments.rows[0], moments.rows[1])
