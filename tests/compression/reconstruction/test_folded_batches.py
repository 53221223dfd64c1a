"""Every augment of every input is in one batch, of one fold and one shape."""

from collections import Counter

import pytest
import torch
from torch import nn

from decompose.compression.reconstruction.folded_batches import NUM_FOLDS, FoldedBatches
from decompose.utils.batches import InputBatches

INPUTS = [torch.full((1, 1, 4, 4), float(value)) for value in range(6)] + [torch.ones(1, 1, 6, 6)]


@pytest.mark.parametrize("size", [1, 3, 16])
def test_all_are_there(size: int) -> None:
    batches = FoldedBatches(InputBatches(INPUTS, nn.Identity()), [torch.zeros(1, 1, 4, 4)], size)
    contents = dict(batches.chosen(range(len(batches))))
    assert sorted(contents) == list(range(len(batches)))
    found = Counter()
    for index, x in contents.items():
        assert isinstance(x, torch.Tensor)
        assert 1 <= len(x) <= size
        for value in x[:, 0, 0, 0].tolist():
            found[batches.folds[index], round(value), x.shape[-1]] += 1
    expected = Counter({((i + 1) % NUM_FOLDS, i, 4): 4 for i in range(6)})
    assert found == expected + Counter({(7 % NUM_FOLDS, 1, 6): 4, (None, 0, 4): 1})


def test_some_are_what_they_are_among_all() -> None:
    batches = FoldedBatches(InputBatches(INPUTS, nn.Identity()), [], 3)
    contents = dict(batches.chosen(range(len(batches))))
    some = dict(batches.chosen({1, 4}))
    assert sorted(some) == [1, 4]
    for index, x in some.items():
        torch.testing.assert_close(x, contents[index], rtol=0, atol=0)
