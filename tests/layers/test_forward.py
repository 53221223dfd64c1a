"""What inputs models take is known: several together, or laid out with the channels last."""

import torch
from torch import Tensor, nn

from decompose.layers.forward import takes_batches, takes_channels_last
from tests.support.models import Viewing


class Centred(nn.Module):
    """Takes the batch's mean away: inputs do not pass alone."""

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, ...)`` to the same."""
        return x - x.mean(0)


class Masked(nn.Module):
    """Masks scores as decoders do."""

    def __init__(self, masked: float) -> None:
        super().__init__()
        self.masked = masked

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, n)`` to the same, its first column masked."""
        return x.masked_fill(torch.arange(x.shape[1]) == 0, self.masked)


def test_inputs_that_pass_alone_may_pass_together() -> None:
    x, other = torch.randn(1, 4), torch.randn(1, 4)
    with torch.no_grad():
        assert takes_batches(nn.Linear(4, 2), x, other)
        assert not takes_batches(Centred(), x, other)
        assert not takes_batches(nn.Linear(4, 2), x, torch.randn(1, 5))


def test_masked_scores_are_compared_where_they_are_finite() -> None:
    x, other = torch.randn(1, 4), torch.randn(1, 4)
    with torch.no_grad():
        for masked in (float("-inf"), float("nan")):
            assert takes_batches(Masked(masked), x, other)
            assert not takes_batches(nn.Sequential(Centred(), Masked(masked)), x, other)


def test_a_model_that_views_maps_as_rows_takes_no_channels_last() -> None:
    x = torch.randn(2, 3, 8, 8)
    flattening = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    with torch.no_grad():
        assert takes_channels_last(flattening, x)
        assert takes_channels_last(flattening, (x,))
        assert not takes_channels_last(Viewing(), x)
        assert not takes_channels_last(nn.Linear(8, 2), x[0, 0])


class Ordered(nn.Module):
    """Rounds otherwise where the channels come last."""

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, C, H, W)`` to the same."""
        is_last = x.is_contiguous(memory_format=torch.channels_last)
        return x * (1 + 2**-6 if is_last else 1)


def test_outputs_may_differ_by_roundings_of_their_precision() -> None:
    x = torch.rand(1, 3, 4, 4)
    assert takes_channels_last(Ordered(), x.bfloat16())
    assert not takes_channels_last(Ordered(), x)
