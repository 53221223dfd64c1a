"""Rows that hold NaN or Inf are left out."""

import torch

from decompose.algebra import finite_rows


def test_a_row_goes_from_all_tensors() -> None:
    features, targets = torch.randn(2, 5, 3), torch.randn(2, 5, 4)
    features[1, 2, 0] = float("nan")
    targets[0, 4, 3] = float("-inf")
    kept = [0, 1, 3]
    for found, given in zip(finite_rows(features, targets), (features, targets), strict=True):
        assert torch.equal(found, given[:, kept])


def test_finite_tensors_stay_themselves() -> None:
    rows = torch.randn(4, 3)
    assert finite_rows(rows, axis=0)[0] is rows
