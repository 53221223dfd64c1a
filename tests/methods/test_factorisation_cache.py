"""Convolutions factorised once for all ranks."""

import pytest
import torch

from decompose.algebra import Conv, compose
from decompose.methods import METHODS
from decompose.methods.factorisation_cache import FactorisationCache
from decompose.utils.errors import DecomposeError


def test_a_convolution_is_factorised_once_for_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    method, count = METHODS["spatial"], []
    prepare = method.prepare
    monkeypatch.setattr(method, "prepare", lambda conv: count.append(conv) or prepare(conv))
    known, convs = FactorisationCache(), [Conv(torch.randn(6, 5, 3, 3)) for _ in range(2)]
    for conv in convs:
        for rank in (1, 4, 4):
            expected = compose(method(conv, rank)).weight
            count.clear()
            made = known("spatial", conv, rank)
            torch.testing.assert_close(compose(made).weight, expected)
            assert len(count) == (rank == 1)
    with pytest.raises(DecomposeError, match="out of bounds"):
        known("spatial", convs[0], 99)
