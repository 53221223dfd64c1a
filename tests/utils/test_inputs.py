"""Inputs out of what people hold."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from decompose.utils.errors import DecomposeError
from decompose.utils.inputs import Inputs, chunks

X = torch.arange(10.0).view(5, 2)


@pytest.mark.parametrize(
    "images",
    [
        X,
        [X[:2], X[2:]],
        [(X, torch.zeros(5))],
        DataLoader(TensorDataset(X, torch.zeros(5)), batch_size=2),
        (batch for batch in X.split(3)),
    ],
    ids=["tensor", "list", "labelled", "loader", "generator"],
)
def test_they_come_one_by_one_and_again(images: object) -> None:
    inputs = Inputs(images, nn.Linear(2, 2, dtype=torch.float64))  # type: ignore[arg-type]
    for _ in range(2):
        seen = list(inputs)
        assert [len(x) for x in seen] == [1] * 5
        assert torch.equal(torch.cat(seen), X.double())


def test_they_come_so_many_at_a_time_at_most() -> None:
    inputs = Inputs([X[:4], X[4:]], nn.Linear(2, 2))
    assert [len(x) for x in inputs.batches(3)] == [3, 1, 1]


def test_what_holds_none() -> None:
    with pytest.raises(DecomposeError, match="there are no inputs"):
        list(chunks(X[:0], 2))
    with pytest.raises(DecomposeError, match="must be tensors, not a str"):
        list(chunks(["a"], 2))
