"""Gram matrices, beside the whole product."""

import pytest
import torch

from decompose.algebra.gram import add_gram_, mirror_


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 7, 256, 600])
@pytest.mark.parametrize("groups", [1, 3])
def test_portions_add_up_to_the_product_of_all_rows(
    groups: int, size: int, dtype: torch.dtype
) -> None:
    rows = torch.randn(groups, 40, size, dtype=dtype)
    total = torch.zeros(groups, size, size, dtype=torch.float64)
    for portion in rows.mT.contiguous().mT.split(15, dim=1):
        add_gram_(total, portion)
    expected = (rows.mT @ rows).double()
    torch.testing.assert_close(mirror_(total), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(total, total.mT)
