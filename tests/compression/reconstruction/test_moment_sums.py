"""Rows that come in portions have the moments of all rows at once."""

import pytest
import torch

from decompose.compression.reconstruction.moment_sums import MomentSums
from decompose.compression.reconstruction.ridge import Moments


@pytest.mark.parametrize(
    ("groups", "num_features", "portion"), [(1, 300, 20), (4, 5, 7), (2, 3, 0)]
)
def test_portions_have_the_moments_of_all_rows(
    groups: int, num_features: int, portion: int
) -> None:
    rows, targets = torch.randn(groups, 333, num_features), torch.randn(groups, 333, 6)
    sums = MomentSums()
    cuts = range(0, 333, portion) if portion else [0, 0, 333]
    for start, stop in zip(cuts, [*cuts, 333][1:], strict=False):
        sums.add(rows[:, start:stop], targets[:, start:stop])
        if start == 2 * portion:
            assert sums.total().count == stop  # may be asked for in between
    expected = Moments.of(rows, targets)
    for name in ("count", "z", "y", "zz", "yz", "yy"):
        found, wanted = getattr(sums.total(), name), getattr(expected, name)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
