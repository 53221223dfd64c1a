"""Tensors are known by their numbers, however they lie in memory."""

import pytest
import torch

from decompose.utils.hashing import content_of


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_equal_tensors_have_the_same_content(dtype: torch.dtype) -> None:
    x = torch.arange(12).reshape(3, 4).to(dtype)
    assert bytes(content_of(x.T.contiguous().T)) == bytes(content_of(x))
    assert bytes(content_of(x.T)) != bytes(content_of(x))
    assert bytes(content_of(x[0, 1])) == bytes(content_of(x[:1, 1:2]))
